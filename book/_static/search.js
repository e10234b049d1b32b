/* The search page: finds sections, systems, words and labs in search_sections.js, with MiniSearch. No request is made. */
(function () {
  "use strict";
  var SHOWN = 20;
  var PER_PAGE = 3;
  // Words of a question that say nothing about what is asked.
  var EMPTY = new Set(("a about an and any are as at be book by can did do does explain find for from get have how i in is it " +
    "its me measure measured my of on or show should so take tell than that the their there this to use used using want was what " +
    "when where which who why will with work works you your system systems framework frameworks paper papers").split(" "));
  var ABOUT_SYSTEMS = /\b(systems?|frameworks?|papers?)\b/i;
  // Sections that repeat a page, and pages for other readers, come after the place itself.
  var LATER = /^(what you should now be able to say|further reading|what we could not reproduce|go further|the pages and labs|predict|build)$/i;
  // What people type -> what the book says.
  var SAYS = {
    install: "start clone commands machine", installation: "start clone commands machine", setup: "start clone commands machine",
    download: "zip clone", slow: "bound traffic bandwidth", slower: "bound traffic bandwidth", fast: "bound traffic bandwidth", pytorch: "torch", gpu: "GPU", cellphone: "phone", mobile: "phone", smartphone: "phone",
    ssd: "flash disk", disk: "flash", nvme: "flash disk", ram: "memory capacity", oom: "memory capacity", vram: "memory",
    kv: "cache keys values", kvcache: "KV cache keys values", flash: "disk", offline: "take zip network", license: "licence", moe: "mixture experts", lut: "look-up table", lookup: "look-up",
    tradeoff: "cost", energy: "energy battery", battery: "energy", laptop: "machine", answers: "solution", solution: "solutions",
    quantisation: "quantization", quantise: "quantization", serving: "batching", vllm: "paged", pdf: "PDF zip",
    exercises: "lab", exercise: "lab", homework: "lab", assignment: "lab", teacher: "instructors", grading: "grade"
  };

  function stem(word) {
    return word.replace(/i[sz](ations?|ing|ed|ers?|es?)$/, "iz").replace(/ies$/, "y").replace(/(ing|ed|es|s)$/, function (end, _, at) {
      return at < 3 || (end === "s" && /(ss|us|is)$/.test(word)) ? end : "";
    }).replace(/(.)\1$/, "$1").replace(/e$/, "");
  }

  function tokens(text) {
    return text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  }

  var index = new MiniSearch({
    idField: "id", fields: ["title", "page", "text", "code"], tokenize: tokens, processTerm: stem
  });
  var entries = window.BOOK_SECTIONS.map(function (entry, id) { return Object.assign({ id: id, code: "" }, entry); });
  index.addAll(entries);

  function find(question) {
    var asked = tokens(question);
    var useful = asked.filter(function (word) { return !EMPTY.has(word); });
    var words = useful.length ? useful : asked;
    var joined = words.join("");
    var more = words.map(function (word) { return Object.hasOwn(SAYS, word) ? SAYS[word] : ""; }).join(" ");
    var wantsLab = words.some(function (word) { return word === "lab" || word === "labs"; });
    var wantsSystem = ABOUT_SYSTEMS.test(question);
    var number = (words.join(" ").match(/\blab (\d+)\b/) || [])[1];
    var options = {
      boost: { title: wantsSystem ? 1.5 : 5, page: wantsSystem ? 1 : 2.5, text: 1, code: 0.2 },
      prefix: function (term) { return term.length > 3; },
      fuzzy: function (term) { return term.length > 5 ? 0.2 : false; },
      weights: { prefix: 0.4, fuzzy: 0.2 },
      // Numbers and the word model stand everywhere.
      boostTerm: function (term) { return /^(\d+|model)$/.test(term) ? 0.3 : 1; },
      boostDocument: function (id) {
        var entry = entries[id];
        if (LATER.test(entry.title) && entry.url.indexOf("#") > 0) return 0.4;
        if (entry.kind === "System") return wantsSystem ? 4 : 1;
        if (entry.kind === "Lab") return wantsLab ? 1 : 0.7;
        if (/instructors\//.test(entry.url)) return 0.7;
        if (entry.kind === "Page" && entry.url.indexOf("#") < 0) return 1.4;
        return entry.kind === "Word" ? (wantsSystem ? 0.5 : 0.8) : 1;
      }
    };
    // One idea for each word: what the book calls it counts half as much; a place that holds all ideas comes first.
    var ideas = Array.from(new Set(words));
    var score = new Map();
    var held = new Map();
    ideas.forEach(function (word) {
      var best = new Map();
      function take(found, weight) {
        found.forEach(function (result) { best.set(result.id, Math.max(best.get(result.id) || 0, weight * result.score)); });
      }
      take(index.search(word, options), 1);
      if (Object.hasOwn(SAYS, word)) take(index.search(SAYS[word], Object.assign({}, options, { fuzzy: false })), 0.5);
      best.forEach(function (value, id) {
        score.set(id, (score.get(id) || 0) + value);
        held.set(id, (held.get(id) || 0) + 1);
      });
    });
    score.forEach(function (value, id) { score.set(id, value * Math.pow(held.get(id) / ideas.length, 2)); });
    entries.forEach(function (entry) {
      var name = tokens(entry.title).join("");
      var forms = entry.kind === "Word" ? entry.page.split(", ") : [];
      var isForm = forms.some(function (form) { return tokens(form).join("") === joined; });
      var before = score.get(entry.id) || 0;
      // The name of a thing, and nothing else, is the thing itself: "what is LUT-GEMM", "paged attention".
      if (name === joined || isForm) score.set(entry.id, before * 2 + 40);
      else if (entry.kind === "System" && ((name.length > 2 && words.indexOf(name) >= 0) || (joined.length > 4 && name.indexOf(joined) >= 0))) {
        score.set(entry.id, before * 1.5 + 15);
      }
      if (number && new RegExp("^labs/lab0?" + number + "_\\w*\\.html$").test(entry.url)) score.set(entry.id, before + 200);
    });
    var seen = {};
    return Array.from(score.keys()).sort(function (a, b) { return score.get(b) - score.get(a); }).filter(function (id) {
      var place = entries[id].kind === "Page" || entries[id].kind === "Lab" ? entries[id].url.split("#")[0] : entries[id].kind;
      seen[place] = (seen[place] || 0) + 1;
      return seen[place] <= (entries[id].kind === "System" ? 8 : PER_PAGE);
    }).slice(0, SHOWN).map(function (id) { return { entry: entries[id], words: words.concat(tokens(more)) }; });
  }

  function excerpt(text, words) {
    var stems = new Set(words.map(stem));
    var pieces = text.split(/([^\p{L}\p{N}]+)/u);
    var hits = [];
    var at = 0;
    pieces.forEach(function (piece) {
      if (stems.has(stem(piece.toLowerCase()))) hits.push(at);
      at += piece.length;
    });
    // The window of 220 letters with most hits.
    var best = 0, most = -1;
    hits.forEach(function (start) {
      var inside = hits.filter(function (hit) { return hit >= start && hit < start + 180; }).length;
      if (inside > most) { most = inside; best = start; }
    });
    var from = Math.max(0, best - 40);
    if (from > 0) from = text.indexOf(" ", from) + 1;
    var to = text.length - from <= 260 ? text.length : text.lastIndexOf(" ", from + 240);
    var line = document.createElement("p");
    if (from > 0) line.append("… ");
    text.slice(from, to).split(/([^\p{L}\p{N}]+)/u).forEach(function (piece) {
      if (!stems.has(stem(piece.toLowerCase()))) { line.append(piece); return; }
      var mark = document.createElement("mark");
      mark.textContent = piece;
      line.append(mark);
    });
    if (to < text.length) line.append(" …");
    line.normalize();
    return line;
  }

  function link(url, text) {
    var anchor = document.createElement("a");
    anchor.href = document.documentElement.dataset.content_root + url;
    anchor.textContent = text;
    return anchor;
  }

  function show(question) {
    var list = document.getElementById("search-results");
    var status = document.getElementById("search-status");
    list.replaceChildren();
    if (!question.trim()) {
      status.textContent = "Ask in your own words, or give a name: a system, a word, a lab.";
      return;
    }
    var results = find(question);
    status.textContent = results.length
      ? (results.length === SHOWN ? "The best " + SHOWN + " places" : results.length + (results.length === 1 ? " place" : " places")) + " for “" + question + "”"
      : "Nothing was found for “" + question + "”. Try one word of it, or look into the glossary or the index.";
    results.forEach(function (result) {
      var entry = result.entry;
      var item = document.createElement("li");
      var head = document.createElement("div");
      head.className = "book-search-head";
      head.append(link(entry.url, entry.title));
      var kind = document.createElement("span");
      kind.className = "book-search-kind";
      kind.textContent = entry.kind;
      head.append(kind);
      item.append(head);
      if (entry.page && entry.kind !== "Word") {
        var where = document.createElement("p");
        where.className = "book-search-where";
        where.textContent = entry.kind === "System" ? entry.page : "in: " + entry.page;
        item.append(where);
      }
      if (entry.text) item.append(excerpt(entry.text, result.words));
      if (entry.atlas) {
        var also = link(entry.atlas, "In the Atlas: claim and what was found");
        also.className = "book-search-also";
        item.append(also);
      }
      list.append(item);
    });
  }

  var field = document.querySelector(".bd-search-container form.bd-search input");
  var first = new URLSearchParams(location.search).get("q") || "";
  document.querySelectorAll("form.bd-search input").forEach(function (input) { input.value = first; });
  var waiting = 0;
  field.addEventListener("input", function () {
    clearTimeout(waiting);
    waiting = setTimeout(function () {
      history.replaceState(null, "", "?q=" + encodeURIComponent(field.value));
      show(field.value);
    }, 120);
  });
  field.form.addEventListener("submit", function (event) { event.preventDefault(); show(field.value); });
  field.focus();
  show(first);
  window.bookSearch = find; // for the tests
})();
