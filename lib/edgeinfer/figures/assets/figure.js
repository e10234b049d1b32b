/* Draws a figure from the data beside it and redraws it when a control moves. It computes nothing: every value was
   computed in Python. Text enters the page as text nodes only. No dependency, no request. */
(function () {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const DASH = ["", "6 3", "2 2", "8 3 2 3", "1 2", "10 4"];
  const make = (name, attributes, parent, text) => {
    const node = document.createElement(name);
    for (const key in attributes || {}) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  };
  const draw = (name, attributes, parent, text) => {
    const node = document.createElementNS(NS, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  };
  const ink = (style) => "var(--c" + (style % 6) + ")";
  const wide = (text) => 6.6 * String(text).length;
  const show = (v) => {
    if (v === null) return "none";
    const n = Number(Number(v).toPrecision(4));
    return n !== 0 && (Math.abs(n) >= 1e6 || Math.abs(n) < 1e-3) ? n.toExponential(2) : n.toLocaleString("en-GB", { maximumFractionDigits: 6 });
  };
  const scale = (axis, from, to) => {
    const f = axis.scale === "log" ? Math.log : (v) => v;
    const a = f(axis.range[0]), b = f(axis.range[1]);
    return (v) => (v === null || (axis.scale === "log" && v <= 0) ? NaN : from + ((f(v) - a) / (b - a)) * (to - from));
  };
  function mark(parent, style, x, y, size) {
    const s = size, kind = style % 6, look = { fill: ink(style), stroke: "var(--card)", "stroke-width": 1.2 };
    const shapes = [null, [[-s, -s], [s, -s], [s, s], [-s, s]], [[0, -1.25 * s], [1.15 * s, s], [-1.15 * s, s]],
      [[0, -1.35 * s], [1.35 * s, 0], [0, 1.35 * s], [-1.35 * s, 0]], [[0, 1.25 * s], [1.15 * s, -s], [-1.15 * s, -s]],
      [[-s / 2, -s], [s / 2, -s], [s / 2, -s / 2], [s, -s / 2], [s, s / 2], [s / 2, s / 2], [s / 2, s], [-s / 2, s],
        [-s / 2, s / 2], [-s, s / 2], [-s, -s / 2], [-s / 2, -s / 2]]];
    if (kind === 0) return draw("circle", { cx: x, cy: y, r: s, ...look }, parent);
    return draw("polygon", { points: shapes[kind].map((p) => x + p[0] + "," + (y + p[1])).join(" "), ...look }, parent);
  }
  function swatch(series, parent) {
    const svg = draw("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, parent);
    if (series.kind === "bars" || series.kind === "boxes") draw("rect", { x: 5, y: 1, width: 16, height: 10, fill: ink(series.style) }, svg);
    else if (series.kind === "points") mark(svg, series.style, 13, 6, 4.5);
    else draw("line", { x1: series.along === "x" ? 13 : 1, x2: series.along === "x" ? 13 : 25, y1: series.along === "x" ? 0 : 6,
      y2: series.along === "x" ? 12 : 6, stroke: ink(series.style), "stroke-width": series.faint ? 1.3 : 2.4,
      "stroke-dasharray": series.dashed ? DASH[1] : "" }, svg);
  }
  const fold = (text, room) => {
    const lines = [];
    for (const word of String(text).match(/[^ _-]+[ _-]?/g) || [text]) {
      const last = lines.length - 1;
      if (last >= 0 && wide(lines[last] + word) <= room) lines[last] += word; else lines.push(word);
    }
    return lines.map((line) => line.trim());
  };
  // Names of a category axis are all shown: folded to their place, or on two levels where a word alone is wider.
  function places(ticks, room) {
    let lines = ticks.map((t) => fold(t[1], room - 6));
    const levels = lines.some((parts) => parts.some((text) => wide(text) > room)) ? 2 : 1;
    if (levels > 1) lines = ticks.map((t) => fold(t[1], 2 * room - 8));
    const most = Math.max(...lines.map((parts) => parts.length));
    return { lines: lines, step: levels > 1 ? most : 0, extra: 14 * (most * levels - 1) };
  }
  function chart(panel, host, label, linked) {
    const width = Math.max(250, Math.min(720, host.clientWidth || 640));
    const yTicks = panel.y.ticks, left = Math.max(34, Math.max(...yTicks.map((t) => wide(t[1]))) + 12);
    const box = { l: left, r: width - 14, t: 24, b: panel.height - 42 };
    const folded = panel.x.scale === "category" ? places(panel.x.ticks, (box.r - box.l) / panel.x.ticks.length) : null;
    const height = panel.height + (folded ? folded.extra : 0) - (panel.x.title ? 0 : 16);
    const svg = draw("svg", { viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": label }, host);
    const X = scale(panel.x, box.l, box.r), Y = scale(panel.y, box.b, box.t), hits = [];
    draw("text", { x: 0, y: 12, class: "lm-axis" }, svg, panel.y.title);
    draw("text", { x: (box.l + box.r) / 2, y: height - 4, "text-anchor": "middle", class: "lm-axis" }, svg, panel.x.title);
    for (const [v, text] of yTicks) {
      const y = Y(v);
      draw("line", { x1: box.l, x2: box.r, y1: y, y2: y, stroke: "var(--grid)" }, svg);
      draw("text", { x: box.l - 6, y: y + 4, "text-anchor": "end", class: "lm-tick" }, svg, text);
    }
    let last = -1e9;
    panel.x.ticks.forEach(([v, text], number) => {
      const x = X(v), half = wide(text) / 2;
      draw("line", { x1: x, x2: x, y1: box.b, y2: box.b + 4, stroke: "var(--soft)" }, svg);
      if (panel.x.scale !== "category") draw("line", { x1: x, x2: x, y1: box.t, y2: box.b, stroke: "var(--grid)" }, svg);
      if (folded) {
        const low = number % 2 ? folded.step : 0;
        folded.lines[number].forEach((part, i) => draw("text", { x: x, y: box.b + 18 + 14 * (low + i), "text-anchor": "middle", class: "lm-tick" }, svg, part));
        return;
      }
      if (x - half < last + 5) return;
      last = x + half;
      draw("text", { x: x, y: box.b + 18, "text-anchor": "middle", class: "lm-tick" }, svg, text);
    });
    const ground = panel.series.some((s) => s.kind === "bars") && panel.y.scale === "linear" && panel.y.range[0] < 0 && panel.y.range[1] > 0 ? Y(0) : box.b;  // where bars stand
    draw("line", { x1: box.l, x2: box.r, y1: ground, y2: ground, stroke: "var(--soft)" }, svg);
    const clip = "lmclip" + (window.lmClips = (window.lmClips || 0) + 1);  // one count for the page: figures differ in height
    draw("rect", { x: box.l, y: box.t - 8, width: box.r - box.l + 10, height: box.b - box.t + 8 }, draw("clipPath", { id: clip }, draw("defs", {}, svg)));
    const inside = draw("g", { "clip-path": "url(#" + clip + ")" }, svg), names = [];
    for (const s of panel.series) {
      if (s.kind === "bars") s.y.forEach((v, i) => {
        const a = s.edges.length ? X(s.edges[i]) : X(i + 0.15), b = s.edges.length ? X(s.edges[i + 1]) : X(i + 0.85), y = Y(v);
        if (!isFinite(y)) return;
        draw("rect", { x: a, y: Math.min(y, ground), width: Math.max(0.5, b - a - (s.edges.length ? 0.6 : 0)), height: Math.abs(ground - y), fill: ink(s.style),
          "fill-opacity": s.highlight === null || s.highlight === i ? 1 : 0.35, stroke: ink(s.style), "stroke-width": s.edges.length ? 0.5 : 1.2 }, inside);
        hits.push({ a: a, b: b, x: (a + b) / 2, y: y, s: s, vx: s.edges.length ? [s.edges[i], s.edges[i + 1]] : panel.x.ticks[i][1], vy: v });
      });
      else if (s.kind === "rules") s.values.forEach((v) => {
        const across = s.along === "x", p = across ? X(v) : Y(v), n = s.values.length;
        // Lines that stand close get thinner, so that a fine grid does not become a solid block too early.
        const thick = n < 2 ? 1.8 : Math.max(0.6, Math.min(1.8, Math.abs((across ? X : Y)(s.values[n - 1]) - (across ? X : Y)(s.values[0])) / n / 2.5));
        draw("line", across ? { x1: p, x2: p, y1: box.t - 4, y2: box.b, stroke: ink(s.style), "stroke-width": thick, "stroke-dasharray": s.dashed ? DASH[1] : "" }
          : { x1: box.l, x2: box.r, y1: p, y2: p, stroke: ink(s.style), "stroke-width": thick, "stroke-dasharray": s.dashed ? DASH[1] : "" }, inside);
      });
      else if (s.kind === "boxes") s.x0.forEach((v, i) => {
        const a = X(v), b = X(s.x1[i]), top = Y(s.y1[i]), low = Y(s.y0[i]);
        draw("rect", { x: a, y: top, width: Math.max(1, b - a), height: Math.max(1, low - top), fill: ink(s.style), "fill-opacity": 0.8, stroke: "var(--card)", "stroke-width": 0.8 }, inside);
        hits.push({ a: a, b: Math.max(a + 1, b), top: top, low: low, x: (a + b) / 2, y: top, s: s, vx: [v, s.x1[i]], vy: [s.y0[i], s.y1[i]] });
      });
      else {
        const at = s.x.map((v, i) => [X(v), Y(s.y[i])]);
        if (s.kind === "line") {
          let path = "", pen = false;
          for (const [x, y] of at) { if (isFinite(x) && isFinite(y)) { path += (pen ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1); pen = true; } else pen = false; }
          draw("path", { d: path, fill: "none", stroke: ink(s.style), "stroke-width": s.faint ? 1.2 : 2.2, "stroke-dasharray": s.dashed ? DASH[1] : "", "stroke-linejoin": "round" }, inside);
        }
        at.forEach(([x, y], i) => {
          if (!isFinite(x) || !isFinite(y)) return;
          if (s.kind === "points") { mark(svg, s.style, x, y, s.large ? 7 : 4.5); if (s.names[i]) names.push([x, y, s.names[i], s.large]); }
          hits.push({ x: x, y: y, s: s, vx: s.x[i], vy: s.y[i], name: s.names ? s.names[i] : "" });
        });
      }
    }
    const placed = [];
    for (const [x, y, text, bold] of names) {
      const w = wide(text) + 4, right = x + 12 + w < width, x0 = right ? x + 12 : Math.max(0, x - 12 - w);
      const free = [bold ? -12 : 0, 0, -15, 15, -30, 30, -45, 45].map((d) => y + 4 + d).find((c) => c > 10 && c < box.b && !placed.some((p) => Math.abs(p.y - c) < 13 && x0 < p.x + p.w && p.x < x0 + w));
      const at = free === undefined ? y + 4 : free;
      placed.push({ x: x0, y: at, w: w });
      draw("text", { x: x0, y: at, "font-weight": bold ? 700 : 400, stroke: "var(--card)", "stroke-width": 3, "paint-order": "stroke" }, svg, text);
    }
    hover(svg, panel, hits, width, box, linked);
    const legend = panel.series.filter((s) => s.label);
    if (legend.length) {
      const list = make("ul", { class: "lm-legend" }, host);
      for (const s of legend) { const item = make("li", {}, list); swatch(s, item); make("span", {}, item, s.label); }
    }
  }
  // What is pointed at is also marked in the other charts of the figure that have the same horizontal axis.
  function hover(svg, panel, hits, width, box, linked) {
    const tip = draw("g", { "aria-hidden": "true", "pointer-events": "none" }, svg);
    const unit = (axis) => (axis.unit ? " " + axis.unit : "");
    const ring = (h) => draw("circle", { cx: h.x, cy: h.y, r: 4, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 }, tip);
    const clear = () => { while (tip.firstChild) tip.removeChild(tip.firstChild); };
    const echo = (vx) => hits.filter((h) => String(h.vx) === String(vx) && h.y >= box.t - 8 && h.y <= box.b + 1).filter((h) => !Array.isArray(h.vy)).slice(0, 8).forEach((h) => {
      ring(h);
      draw("text", { x: Math.min(h.x + 7, width - wide(show(h.vy))), y: h.y - 6, "font-weight": 600, stroke: "var(--card)", "stroke-width": 3, "paint-order": "stroke" }, tip, show(h.vy));
    });
    const clearAll = () => linked.forEach((other) => other.clear());
    linked.push({ axis: panel.x.title, clear: clear, echo: echo });
    const move = (event) => {
      clearAll();
      const area = svg.getBoundingClientRect(), k = width / area.width;
      const px = (event.clientX - area.left) * k, py = (event.clientY - area.top) * k;
      let best = null, near = 26;
      for (const h of hits) {
        const d = h.a !== undefined ? (px >= h.a && px < h.b && (h.top === undefined ? py < box.b : py >= h.top && py < h.low) ? 14 : 99) : Math.hypot(px - h.x, py - h.y);
        if (d < near) { near = d; best = h; }
      }
      if (!best) return;
      const say = (v) => (Array.isArray(v) ? show(v[0]) + " to " + show(v[1]) : typeof v === "string" ? v : show(v));
      const lanes = panel.y.scale === "category" ? "" : panel.y.label + ": " + say(best.vy) + unit(panel.y);
      const lines = [best.name || best.s.label, panel.x.label + ": " + say(best.vx) + unit(panel.x), lanes].filter(Boolean);
      const w = Math.max(...lines.map(wide)) + 12, h = 16 * lines.length + 8;
      const x0 = Math.max(0, Math.min(width - w, best.x + 10)), y0 = best.y - h - 8 < 0 ? best.y + 12 : best.y - h - 8;
      ring(best);
      draw("rect", { x: x0, y: y0, width: w, height: h, rx: 5, fill: "var(--card)", stroke: "var(--soft)" }, tip);
      lines.forEach((text, i) => draw("text", { x: x0 + 6, y: y0 + 16 + 16 * i, "font-weight": i ? 400 : 600 }, tip, text));
      linked.filter((other) => other.clear !== clear && other.axis === panel.x.title).forEach((other) => other.echo(best.vx));
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", clearAll);
  }
  function table(panel, host) {
    const box = make("div", { class: "lm-scroll", tabindex: 0, role: "group", "aria-label": panel.caption || "Table" }, host);
    const node = make("table", {}, box), marked = (list, r, c) => list.some((m) => m[0] === r && m[1] === c);
    if (panel.caption) make("caption", {}, node, panel.caption);
    const head = make("tr", {}, make("thead", {}, node));
    panel.head.forEach((text) => make(text ? "th" : "td", text ? { scope: "col" } : {}, head, text));
    const body = make("tbody", {}, node);
    panel.rows.forEach((row, r) => {
      const line = make("tr", {}, body);
      row.forEach((text, c) => {
        const cell = make(c ? "td" : "th", c ? {} : { scope: "row" }, line, text);
        if (marked(panel.strong, r, c)) cell.className = "lm-strong"; else if (marked(panel.soft, r, c)) cell.className = "lm-soft";
      });
    });
  }
  const lane = (panel, s, i) => (panel.y.scale === "category" ? panel.y.ticks[Math.floor(s.y0[i])][1] : show(s.y0[i]) + " to " + show(s.y1[i]));
  function numbers(panels, host) {
    host.textContent = "";
    for (const panel of panels) for (const s of panel.series || []) {
      const named = s.label || panel.title || panel.y.label;
      const rows = s.kind === "rules" ? s.values.map((v) => [show(v)]) : s.kind === "boxes"
        ? s.x0.map((v, i) => [show(v) + " to " + show(s.x1[i]), lane(panel, s, i)]) : s.kind === "bars"
        ? s.y.map((v, i) => [s.edges.length ? show(s.edges[i]) + " to " + show(s.edges[i + 1]) : panel.x.ticks[i][1], show(v)])
        : s.x.map((v, i) => [(s.names && s.names[i] ? s.names[i] + ": " : "") + show(v), show(s.y[i])]);
      table({ caption: named, head: s.kind === "rules" ? [s.along === "x" ? panel.x.title : panel.y.title] : [panel.x.title, panel.y.title], rows: rows, strong: [], soft: [] }, host);
    }
  }
  // A button that moves the slider step by step; whoever moves the slider takes over.
  function player(node, update, words) {
    const button = node.querySelector("button"), input = node.querySelector("input"), name = node.querySelector("label").textContent;
    let timer = 0;
    const say = (text) => { button.textContent = text; button.setAttribute("aria-label", text + ": " + name); };
    const stop = () => { clearInterval(timer); timer = 0; say("Play"); words.setAttribute("aria-live", "polite"); };
    const to = (at) => { input.value = at; update(); if (at >= Number(input.max)) stop(); };
    button.addEventListener("click", () => {
      if (timer) return stop();
      say("Pause");
      words.setAttribute("aria-live", "off");  // a voice that reads every step would never end
      timer = setInterval(() => (node.isConnected ? to(Number(input.value) + 1) : stop()), 900);
      to(Number(input.value) >= Number(input.max) ? 0 : Number(input.value) + 1);
    });
    input.addEventListener("input", stop);
  }
  function start(root) {
    root.setAttribute("data-ready", "");
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent), find = (c) => root.querySelector(c);
    const controls = Array.from(root.querySelectorAll(".lm-control")), panels = find(".lm-panels"), details = find("details");
    const value = (node) => Number(node.querySelector("input,select").value);
    const full = (ref) => {
      const panel = { ...data.pool[ref] };
      if (panel.kind === "chart") { panel.x = data.pool[panel.x]; panel.y = data.pool[panel.y]; panel.series = panel.series.map((i) => data.pool[i]); }
      return panel;
    };
    let shown = -1, drawn = 0;
    function update(force) {
      let state = 0;
      controls.forEach((node, i) => {
        const at = value(node), text = data.controls[i].labels[at];
        state = state * data.controls[i].labels.length + at;
        node.querySelector("output").textContent = text;
        const input = node.querySelector("input");
        if (input) input.setAttribute("aria-valuetext", text);
      });
      if (state === shown && !force) return;
      shown = state;
      const frame = data.frames[state], parts = frame.panels.map(full);
      drawn = panels.clientWidth;
      panels.textContent = "";
      // All places first, then the tables: a chart is drawn as wide as its place is once its neighbours are filled.
      const linked = [], hosts = parts.map((panel) => make("div", { class: panel.kind === "table" ? "lm-panel lm-fit" : "lm-panel" }, panels));
      parts.forEach((panel, i) => {
        const host = hosts[i];
        if (panel.kind === "picture") make("img", { src: panel.src, alt: frame.text, width: panel.width, height: panel.height }, host);
        if (panel.kind === "table") table(panel, host);
      });
      parts.forEach((panel, i) => {
        const host = hosts[i];
        if (panel.kind === "picture" || panel.kind === "table") return;
        if (panel.title) make("div", { class: "lm-panel-title" }, host, panel.title);
        chart(panel, host, (panel.title ? panel.title + ". " : "") + frame.text, linked);
      });
      const list = find(".lm-readouts");
      list.textContent = "";
      for (const [name, text] of frame.readouts) { const pair = make("div", {}, list); make("dt", {}, pair, name); make("dd", {}, pair, text); }
      if (!frame.readouts.length) list.style.display = "none";
      if (find(".lm-text").textContent !== frame.text) find(".lm-text").textContent = frame.text;
      if (details && details.open) numbers(parts, details.querySelector("div"));
      root.setAttribute("data-state", String(state));
    }
    controls.forEach((node) => {
      node.querySelector("input,select").addEventListener("input", () => update(false));
      if (node.querySelector("button")) player(node, () => update(false), find(".lm-text"));
    });
    if (details) details.addEventListener("toggle", () => { if (details.open) numbers(data.frames[shown].panels.map(full), details.querySelector("div")); });
    update(true);
    if (window.ResizeObserver) new ResizeObserver(() => { if (Math.abs(panels.clientWidth - drawn) > 2) update(true); }).observe(panels);
  }
  document.querySelectorAll(".lmfig:not([data-ready])").forEach(start);
})();
