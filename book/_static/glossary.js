/* Shows a term's definition beside its link: with the pointer, with the keyboard, and gone with Escape.
   Without this script the definition is the link's title, and the link works all the same. */
(function () {
  "use strict";
  var links = document.querySelectorAll("a.glossary-term[title]");
  var home = document.querySelector("article") || document.body;
  var open = null;
  var waiting = 0;

  function hide() {
    clearTimeout(waiting);
    if (open) open.hidden = true;
    open = null;
  }

  function show(link, tip) {
    hide();
    var box = link.getClientRects()[0]; // the first line, if the term is broken over two
    var room = document.documentElement.clientWidth;
    tip.hidden = false;
    tip.style.left = Math.max(8, Math.min(box.left, room - tip.offsetWidth - 8)) + "px";
    var above = box.bottom + tip.offsetHeight + 8 > window.innerHeight && box.top > tip.offsetHeight + 8;
    tip.style.top = (above ? box.top - tip.offsetHeight - 4 : box.bottom + 4) + "px";
    open = tip;
  }

  function leave() {
    clearTimeout(waiting);
    waiting = setTimeout(hide, 200); // time enough to move the pointer onto the text itself
  }

  links.forEach(function (link, index) {
    var tip = document.createElement("span");
    tip.id = "glossary-tip-" + index;
    tip.className = "glossary-tip";
    tip.setAttribute("role", "tooltip");
    tip.textContent = link.title;
    tip.hidden = true;
    home.appendChild(tip);
    link.removeAttribute("title");
    link.setAttribute("aria-describedby", tip.id);
    link.addEventListener("mouseenter", function () { show(link, tip); });
    link.addEventListener("focus", function () { show(link, tip); });
    link.addEventListener("mouseleave", leave);
    link.addEventListener("blur", hide);
    tip.addEventListener("mouseenter", function () { clearTimeout(waiting); });
    tip.addEventListener("mouseleave", leave);
  });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") hide(); });
  window.addEventListener("scroll", hide, { passive: true });
})();
