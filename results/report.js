"use strict";
// Everything that comes from the data enters the page as text (textContent), never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const { clips, queries, captions, runs, sounds, top: TOP } = data;
const PER_PAGE = 50;
const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const shown = (rank) => (Number.isInteger(rank) ? String(rank) : rank.toFixed(1));
const meanRanks = runs.map((run) => queries.map((_, q) => mean(run.ranks.map((ranks) => ranks[q]))));
const text = (q) => captions[q] ?? `caption ${queries[q][1] + 1} of ${clips[queries[q][0]]}`;
const captionOf = new Map();
queries.forEach(([clip], q) => { if (!captionOf.has(clip) && captions.length) captionOf.set(clip, text(q)); });
const hay = queries.map(([clip], q) => `${text(q)} ${clips[clip]}`.toLowerCase());

let order = [], page = 0;

function select() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [least, most] = $("places").value.split("-").map(Number);
  const run = Number($("run")?.value ?? 0);
  order = queries.map((_, q) => q).filter(
    (q) => words.every((word) => hay[q].includes(word)) && least <= meanRanks[run][q] && meanRanks[run][q] <= most
  );
  const gap = (q) => meanRanks[0][q] - (meanRanks[1]?.[q] ?? 0);
  const sorts = {
    worst: (a, b) => meanRanks[run][b] - meanRanks[run][a],
    best: (a, b) => meanRanks[run][a] - meanRanks[run][b],
    list: (a, b) => a - b,
    caption: (a, b) => text(a).localeCompare(text(b)),
    ahead: (a, b) => gap(a) - gap(b),
    behind: (a, b) => gap(b) - gap(a),
  };
  order.sort((a, b) => sorts[$("sort").value](a, b) || a - b);
  page = 0;
  show();
}

function show() {
  const last = Math.max(0, Math.ceil(order.length / PER_PAGE) - 1);
  page = Math.min(Math.max(page, 0), last);
  const part = order.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  $("queries").replaceChildren(...part.map(row));
  $("count").textContent = order.length
    ? `${page * PER_PAGE + 1} to ${page * PER_PAGE + part.length} of ${order.length} queries`
    : "no query matches; clear the filter or choose other ranks";
  $("before").disabled = page === 0;
  $("after").disabled = page === last;
}

function row(q) {
  const item = make("li");
  const ranks = make("span", { class: "ranks" });
  runs.forEach((run, r) => {
    const rank = meanRanks[r][q];
    const place = make("span", { class: rank === 1 ? "rank hit" : "rank" });
    if (runs.length > 1) place.append(make("span", { class: `key s${r % 6}` }));
    place.append(shown(rank));
    place.title = `${run.name}: ` + run.seeds.map((s, i) => `seed ${s} rank ${shown(run.ranks[i][q])}`).join(", ");
    place.setAttribute("aria-label", `rank ${shown(rank)} with ${run.name}`);
    ranks.append(place);
  });
  const button = make("button", { class: "row", "aria-expanded": "false" },
    make("span", { class: "text" }, text(q)), make("span", { class: "clip" }, clips[queries[q][0]]), ranks);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) item.lastChild.remove();
    else item.append(detail(q));
  });
  item.append(button);
  return item;
}

function detail(q) {
  const box = make("div", { class: "detail" });
  runs.forEach((run, r) => {
    const own = queries[q][0];
    const rank = run.ranks[0][q];
    const part = make("section", {}, make("h4", {}, `${run.name}, seed ${run.seeds[0]}: rank ${shown(rank)}`));
    const list = make("ol", { class: "found" });
    const found = run.top.slice(q * TOP, (q + 1) * TOP);
    found.forEach((clip, place) => list.append(entry(clip, place + 1, run.scores?.[q * TOP + place], clip === own)));
    if (!found.includes(own)) {
      list.append(make("li", { class: "gap" }, "…"), entry(own, rank, undefined, true));
    }
    part.append(list);
    if (run.experts.length > 1 && run.weights) part.append(weights(run, r, q));
    box.append(part);
  });
  return box;
}

function entry(clip, place, score, right) {
  const item = make("li", right ? { class: "right" } : {});
  item.append(`${shown(place)}. ${clips[clip]}`);
  if (right) item.append(" ", make("span", { class: "tag" }, "✓ its own clip"));
  if (score !== undefined) item.append(" ", make("span", { class: "dim" }, `similarity ${score.toFixed(3)}`));
  if (captionOf.has(clip)) item.append(make("span", { class: "said" }, captionOf.get(clip)));
  if (sounds[clip]) item.append(player(clip));
  return item;
}

function player(clip) {
  const audio = make("audio", { controls: "", preload: "metadata", src: sounds[clip], "aria-label": `sound of ${clips[clip]}` });
  const length = make("span", { class: "dim" });
  audio.addEventListener("loadedmetadata", () => { length.textContent = `${audio.duration.toFixed(1)} s`; });
  audio.addEventListener("error", () => { length.textContent = "this sound cannot be played here"; });
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) {
      if (other !== audio && !other.paused) { other.pause(); other.currentTime = 0; }
    }
  });
  audio.addEventListener("ended", () => { audio.currentTime = 0; });
  const box = make("span");
  box.append(" ", length, audio);
  return box;
}

function weights(run, r, q) {
  const box = make("div", { class: "weights", role: "group", "aria-label": "weights of the experts" });
  box.append(make("span", { class: "dim all" }, "weights that the caption gives to the experts"));
  run.experts.forEach((name, m) => {
    const share = run.weights[q * run.experts.length + m];
    const bar = make("span", { class: `bar-of key s${r % 6}` });
    bar.style.width = `${share}%`;
    box.append(make("span", {}, name), bar, make("span", {}, `${share} %`));
  });
  return box;
}

function look(clip) {
  $("filter").value = clip;
  $("places").value = "0-1e9";
  select();
  $("index").scrollIntoView();
  $("filter").focus({ preventScroll: true });
}

if (queries.length) {
  for (const id of ["filter", "places", "sort", "run"]) $(id)?.addEventListener("input", select);
  $("before").addEventListener("click", () => { page -= 1; show(); });
  $("after").addEventListener("click", () => { page += 1; show(); });
  for (const link of document.querySelectorAll("button.link")) {
    link.addEventListener("click", () => look(link.textContent));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, audio")) return;
    if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
    if (event.key === "n" && !$("after").disabled) { page += 1; show(); }
    if (event.key === "p" && !$("before").disabled) { page -= 1; show(); }
  });
  select();
  const open = Number(new URLSearchParams(location.hash.slice(1)).get("open") ?? 0);
  document.querySelectorAll(".row").forEach((button, i) => { if (i < open) button.click(); });
}
