"use strict";
// Shows the values under the pointer, and moves through them with the arrow keys. All positions and texts are
// in the page already, beside each chart; without this script only the values are missing.
(() => {
  const make = (tag, name, parent, text) => {
    const node = document.createElement(tag);
    node.className = name;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const percent = (fraction) => `${100 * fraction}%`;
  const least = (values) => values.reduce((best, value, k) => (value < values[best] ? k : best), 0);
  const put = (node, style) => { Object.assign(node.style, style); node.hidden = false; };
  const hidden = (node) => { node.hidden = true; return node; };

  // What a chart answers: where the pointer is, where an arrow key leads, and what there is to show.
  // `left` and `top` are fractions of the plot.

  const lines = (plot, { height, x, labels, series }) => {
    const rule = hidden(make("i", "rule", plot));
    const dots = series.map((one) => {
      const dot = hidden(make("i", `dot ${one.paint}`, plot));
      if (one.style) dot.style.cssText = one.style;
      return dot;
    });
    const figure = plot.closest("figure");
    const exact = series.map((one) => new Map(one.at.map((stop, k) => [stop, k]).reverse()));
    const few = series.length <= 8;

    // The point of a series at a stop, or the next one, unless that is far off its end.
    const point = (i, stop) => {
      const { at } = series[i];
      if (exact[i].has(stop)) return exact[i].get(stop);
      if (!at.length) return undefined;
      const k = least(at.map((other) => Math.abs(x[other] - x[stop])));
      const away = x[at[k]] - x[stop];
      const beyond = [k - 1, k + 1].some((n) => n in at && (x[at[n]] - x[stop]) * away < 0);
      return beyond || Math.abs(away) <= 20 ? k : undefined;
    };
    const emphasise = (i) => {
      for (const node of figure.querySelectorAll("svg g.series"))
        node.classList.toggle("dim", i !== null && node.dataset.k !== String(i));
    };
    for (const node of figure.querySelectorAll(".legend .series, .ends .series")) {
      node.addEventListener("pointerenter", () => emphasise(node.dataset.k));
      node.addEventListener("pointerleave", () => emphasise(null));
    }
    const clear = () => { for (const node of [rule, ...dots]) node.hidden = true; emphasise(null); };

    return {
      clear,
      at: (fx, fy) => {
        const stop = least(x.map((place) => Math.abs(place - 1000 * fx)));
        const away = series.map((one, i) => {
          const k = point(i, stop);
          return k === undefined || one.y[k] === null ? Infinity : Math.abs(one.y[k] - height * fy);
        });
        return { stop, i: least(away) };
      },
      move: (cursor, dx, dy) => cursor === null ? { stop: 0, i: 0 } : {
        stop: clamp(cursor.stop + dx, 0, x.length - 1),
        i: clamp(cursor.i + Math.sign(dy), 0, series.length - 1),
        keyed: dy !== 0 || cursor.keyed,
      },
      end: (cursor, last) => ({ ...cursor, i: cursor ? cursor.i : 0, stop: last ? x.length - 1 : 0 }),
      show: ({ stop, i, keyed }) => {
        clear();
        put(rule, { left: percent(x[stop] / 1000) });
        const rows = [];
        let top = 0.5;
        series.forEach((one, n) => {
          const k = point(n, stop);
          if (k === undefined) return;
          const y = one.y[k];
          if (y !== null && (few || n === i)) {
            put(dots[n], { left: percent(x[one.at[k]] / 1000), top: percent(y / height) });
            dots[n].classList.toggle("on", n === i && !few);
          }
          if (n === i && y !== null) top = y / height;
          const elsewhere = one.at[k] === stop ? "" : ` at ${labels[one.at[k]]}`;
          rows.push({ name: one.name, value: one.text[k] + elsewhere, paint: one.paint, style: one.style, on: n === i && series.length > 1, n });
        });
        if (series.length > 1 && (keyed || !few)) emphasise(i);
        const most = 9, first = rows.findIndex((row) => row.n === i);
        const from = rows.length > most ? clamp(first - 4, 0, rows.length - most) : 0;
        const shown = rows.slice(from, from + most);
        if (shown.length < rows.length) shown.push({ name: `and ${rows.length - shown.length} more`, value: "" });
        const axis = plot.closest(".chart").querySelector(".x-label");
        const name = axis ? axis.textContent.replace("→", "").trim() : "";
        return { left: x[stop] / 1000, top, title: `${name} ${labels[stop]}`.trim(), rows: shown, spoken: rows.find((row) => row.n === i) };
      },
    };
  };

  const heat = (plot, { names, x, y, text }) => {
    const cell = hidden(make("i", "cell", plot));
    const values = text.split(" ");
    const inside = (row, column) => ({ row: clamp(row, 0, y.length - 1), column: clamp(column, 0, x.length - 1) });
    return {
      clear: () => { cell.hidden = true; },
      at: (fx, fy) => inside(Math.floor(fy * y.length), Math.floor(fx * x.length)),
      move: (cursor, dx, dy) => cursor === null ? { row: 0, column: 0 } : inside(cursor.row + dy, cursor.column + dx),
      end: (cursor, last) => inside(cursor ? cursor.row : 0, last ? x.length : 0),
      show: ({ row, column }) => {
        put(cell, { left: percent(column / x.length), top: percent(row / y.length), width: percent(1 / x.length), height: percent(1 / y.length) });
        return {
          left: (column + 0.5) / x.length, top: (row + 0.5) / y.length,
          rows: [
            { name: names[2], value: values[row * x.length + column], on: true },
            { name: names[0], value: y[row] }, { name: names[1], value: x[column] },
          ],
        };
      },
    };
  };

  const bars = (plot, { labels, text, value }) => {
    const strip = hidden(make("i", "strip", plot));
    const inside = (k) => ({ k: clamp(k, 0, labels.length - 1) });
    return {
      clear: () => { strip.hidden = true; },
      at: (fx, fy) => inside(Math.floor(fy * labels.length)),
      move: (cursor, dx, dy) => cursor === null ? { k: 0 } : inside(cursor.k + dx + dy),
      end: (cursor, last) => inside(last ? labels.length : 0),
      show: ({ k }) => {
        put(strip, { top: percent(k / labels.length), height: percent(1 / labels.length) });
        return { left: 0.5, top: (k + 0.5) / labels.length, title: labels[k], rows: [{ name: value, value: text[k], on: true }] };
      },
    };
  };

  const spans = (plot, { name, text }) => {
    const pieces = [...plot.children], values = text.split(" ");
    const order = new Map(pieces.map((piece, k) => [piece, k]));
    let on = null;
    const clear = () => { if (on) on.classList.remove("on"); on = null; };
    const middle = (k) => {
      const box = pieces[k].getClientRects()[0] || pieces[k].getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    // The piece nearest above or below.
    const vertical = (k, dy) => {
      const [x, y] = middle(k);
      let best = k, found = null, away = Infinity;
      for (let n = k + dy; n >= 0 && n < pieces.length; n += dy) {
        const [across, down] = middle(n);
        if (Math.abs(down - y) < 4) continue;
        if (found !== null && Math.abs(down - found) > 4) break;
        found = down;
        if (Math.abs(across - x) < away) { best = n; away = Math.abs(across - x); }
      }
      return best;
    };
    return {
      clear,
      at: (fx, fy, target) => (order.has(target) ? { k: order.get(target) } : null),
      move: (cursor, dx, dy) => cursor === null ? { k: 0 }
        : { k: dy ? vertical(cursor.k, Math.sign(dy)) : clamp(cursor.k + dx, 0, pieces.length - 1) },
      end: (cursor, last) => ({ k: last ? pieces.length - 1 : 0 }),
      show: ({ k }) => {
        clear();
        on = pieces[k];
        on.classList.add("on");
        const box = plot.getBoundingClientRect(), [x, y] = middle(k);
        const piece = on.textContent.replace(/\n/g, "↵").replace(/ /g, "␣");
        return {
          left: (x - box.left) / box.width, top: (y - box.top) / box.height, above: true,
          title: piece, rows: [{ name, value: values[k], on: true }],
        };
      },
    };
  };

  // The one tooltip, and what a screen reader says.

  const tip = hidden(make("div", "tip", document.body));
  tip.setAttribute("aria-hidden", "true");
  const live = make("div", "unseen", document.body);
  live.setAttribute("role", "status");

  const place = (plot, { left, top, title, rows, above }) => {
    tip.textContent = "";
    if (title) make("b", "", tip, title);
    for (const { name, value, paint, style, on } of rows) {
      const row = make("div", on ? "on" : "", tip);
      if (paint) make("i", paint, row).style.cssText = style;
      make("span", "", row, name);
      make("em", "", row, value);
    }
    tip.hidden = false;
    const box = plot.getBoundingClientRect(), page = document.documentElement, gap = 14;
    const x = box.left + left * box.width, y = box.top + top * box.height;
    const { offsetWidth: width, offsetHeight: height } = tip;
    let across = x + gap + width < page.clientWidth - 8 ? x + gap : x - gap - width;
    let down = y - height / 2;
    if (above || across < 8) {
      across = clamp(x - width / 2, 8, page.clientWidth - 8 - width);
      down = y - gap - height < 8 ? y + gap : y - gap - height;
    }
    down = clamp(down, 8, Math.max(8, page.clientHeight - 8 - height));
    tip.style.transform = `translate(${Math.round(across + scrollX)}px, ${Math.round(down + scrollY)}px)`;
  };

  const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const kinds = { lines, heat, bars, spans };
  let active = null;

  for (const chart of document.querySelectorAll(".chart")) {
    const { kind, ...data } = JSON.parse(chart.querySelector("script").textContent);
    const plot = chart.querySelector(".plot");
    const answers = kinds[kind](plot, data);
    let cursor = null;
    chart.setAttribute("role", "application");
    chart.setAttribute("aria-roledescription", "chart; the arrow keys move through its values");

    const clear = () => { cursor = null; answers.clear(); if (active === clear) { tip.hidden = true; active = null; } };
    const show = (next) => {
      if (active && active !== clear) active();
      active = clear;
      cursor = next;
      const seen = answers.show(next);
      place(plot, seen);
      return seen;
    };
    const point = (event) => {
      const box = plot.getBoundingClientRect();
      const next = answers.at((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, event.target);
      if (next) show(next);
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") clear(); });
    chart.addEventListener("blur", clear);
    chart.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const { key } = event, stride = event.shiftKey ? 10 : 1;
      let next;
      if (key in KEYS) next = answers.move(cursor, ...KEYS[key].map((step) => step * stride));
      else if (key === "Home" || key === "End") next = answers.end(cursor, key === "End");
      else if (key === "Escape") return clear();
      else return;
      event.preventDefault();
      const { title, rows, spoken } = show(next);
      const said = spoken ? [spoken] : rows;
      live.textContent = [title, ...said.map(({ name, value }) => `${name} ${value}`)].filter(Boolean).join(", ");
    });
  }
  document.addEventListener("pointerdown", (event) => { if (active && !event.target.closest(".plot")) active(); });
  addEventListener("resize", () => { if (active) active(); });

  // The entry of the navigation whose section is read.

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const strip = document.querySelector("nav");
  const sections = [...document.querySelectorAll("main > section")];
  const follow = () => {
    const line = innerHeight / 3;
    const atEnd = scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const current = atEnd ? sections.at(-1) : sections.filter((one) => one.getBoundingClientRect().top <= line).at(-1) || sections[0];
    for (const [key, link] of links) {
      if (current && key === current.id) {
        if (!link.hasAttribute("aria-current")) {
          link.setAttribute("aria-current", "true");
          strip.scrollLeft = link.offsetLeft - 24;
        }
      } else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", follow, { passive: true });
  follow();
})();
