// The page: asks the server, shows what was found, plays one sound at a time.
// Text from the server is only ever set as textContent.

const $ = (selector, within = document) => within.querySelector(selector);
const form = $("#form"), box = $("#query"), status = $("#status"), list = $("#results");
const sound = new Audio();
sound.preload = "auto";
const ROWS = 64; // bands of a picture
let shown = []; // the results on the page, in order
let playing = null; // the one whose sound is loaded
let wanted = 0; // seconds: where it was last asked to play from
let loading = false; // it cannot be there yet
let asked = 0; // counts questions, so that a late answer does not replace a newer one

// Asking

const ask = (what, parameters, body) => fetch(
  `${what}?${new URLSearchParams(parameters)}`, body ? { method: "POST", body } : {});

async function find(heading, question, fromHistory = false) {
  const mine = ++asked;
  $("#welcome").hidden = true;
  status.className = "";
  status.textContent = "Searching …";
  list.classList.add("waiting");
  let answer;
  try {
    const response = await question();
    answer = await response.json();
    if (!response.ok && !answer.error) throw new Error(response.statusText);
  } catch {
    answer = { error: "The server does not answer. Is misc/serve.py still running?" };
  }
  if (mine !== asked) return;
  list.classList.remove("waiting");
  stop();
  if (answer.error) {
    show([]);
    status.className = "error";
    status.textContent = answer.error;
    return;
  }
  show(answer.results);
  const count = answer.results.length;
  status.textContent = count ? `${count} ${count === 1 ? "recording" : "recordings"} ${heading}`
    : "Nothing found.";
  if (!fromHistory) window.scrollTo({ top: 0 });
}

function searchFor(query, fromHistory = false) {
  query = query.trim();
  box.value = query;
  document.title = query ? `${query} – Find a sound` : "Find a sound";
  if (!fromHistory) history.pushState({}, "", query ? `?q=${encodeURIComponent(query)}` : "./");
  if (!query) return welcome();
  return find(`closest to “${query}”`, () => ask("search", { q: query }), fromHistory);
}

function searchByFile(file) {
  box.value = "";
  return find(`that sound like ${file.name}`, () => ask("like", { name: file.name }, file));
}

function searchSimilar(result) {
  box.value = "";
  const { file, start, end } = result;
  return find(`that sound like ${file}, ${clock(start)}–${clock(end)}`,
    () => ask("similar", { file, start, end }));
}

function welcome() {
  asked++;
  stop();
  show([]);
  status.className = "";
  status.textContent = "";
  $("#welcome").hidden = false;
}

// Showing

function show(results) {
  list.replaceChildren(...results.map(asItem));
  shown = results;
  results.forEach((result) => seen.observe(result.item));
}

function asItem(result, index) {
  const item = $("#result").content.firstElementChild.cloneNode(true);
  result.item = item;
  result.index = index;
  [result.from, result.to] = view(result);
  const cut = result.file.lastIndexOf("/") + 1;
  const title = $("h2", item);
  if (cut) {
    const folder = document.createElement("span");
    folder.className = "folder";
    folder.textContent = result.file.slice(0, cut);
    title.append(folder);
  }
  title.append(result.file.slice(cut));
  const whole = result.start <= 0 && result.end >= result.seconds - 0.05;
  $(".moment", item).textContent = whole ? "" : `${clock(result.start)} – ${clock(result.end)}`;
  $(".length", item).textContent = whole ? length(result.seconds) : `of ${length(result.seconds)}`;
  $(".score", item).textContent = `score ${result.score.toFixed(2)}`;
  $(".play", item).onclick = () => toggle(result);
  $(".play", item).setAttribute("aria-label", `Play ${result.file} from ${clock(result.start)}`);
  $(".similar", item).onclick = () => searchSimilar(result);
  $(".similar", item).setAttribute("aria-label", `Find sounds similar to ${result.file}`);
  item.setAttribute("aria-label", `${index + 1}: ${result.file}`);
  const picture = $(".picture", item);
  picture.setAttribute("aria-valuemin", result.from.toFixed(1));
  picture.setAttribute("aria-valuemax", result.to.toFixed(1));
  picture.onpointerdown = (event) => {
    const frame = picture.getBoundingClientRect();
    const share = (event.clientX - frame.left) / frame.width;
    playFrom(result, result.from + share * (result.to - result.from));
  };
  result.at = result.start;
  place(result);
  item.onfocus = () => mark(item);
  showAxis(result);
  showExperts(result);
  return item;
}

function view({ start, end, seconds }) { // the stretch that is drawn: a minute of a long one
  if (seconds <= 60) return [0, seconds];
  const half = Math.max(30, (end - start) * 0.75), middle = (start + end) / 2;
  const from = Math.max(0, Math.min(middle - half, seconds - 2 * half));
  return [from, Math.min(seconds, from + 2 * half)];
}

function showAxis(result) {
  const { item, from, to } = result, axis = $(".axis", item);
  const length = to - from;
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60].find((s) => length / s <= 7) || length / 6;
  for (let t = Math.ceil(from / step) * step; t <= to + 1e-9; t += step) {
    const tick = document.createElement("span");
    const share = (t - from) / length;
    if (axis.children.length && share > 0.97) tick.className = "last";
    else if (share > 0.9) continue;
    tick.style.left = `${share * 100}%`;
    tick.textContent = step < 1 ? `${t.toFixed(1)} s` : clock(t);
    axis.append(tick);
  }
}

function showExperts(result) {
  const place = $(".experts", result.item), bar = document.createElement("div");
  bar.className = "bar";
  bar.setAttribute("aria-hidden", "true");
  Object.entries(result.experts).forEach(([name, share], number) => {
    const shade = `var(--shade-${(number % 5) + 1})`;
    const part = document.createElement("i"), label = document.createElement("span");
    part.style.flexGrow = share;
    part.style.setProperty("--shade", shade);
    label.className = "name";
    label.style.setProperty("--shade", shade);
    label.textContent = `${name} ${Math.round(share * 100)} %`;
    label.title = `${name} makes up ${Math.round(share * 100)} % of the score`;
    bar.append(part);
    place.append(label);
  });
  place.append(bar);
}

function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6), hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60, rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

const length = (seconds) => (seconds < 60 ? `${seconds.toFixed(1)} s` : clock(seconds));

// Pictures: spectrograms, the found moment in colour

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    const result = shown.find(({ item }) => item === entry.target);
    if (result) fetchPicture(result);
  }
}, { rootMargin: "300px" });

async function fetchPicture(result) {
  const response = await ask("picture", { file: result.file, start: result.from, end: result.to });
  if (!response.ok) return;
  result.levels = new Uint8Array(await response.arrayBuffer());
  draw(result);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim().split(" ").map(Number);
}

function draw(result) {
  const { levels, item, from, to } = result, columns = levels.length / ROWS;
  if (!columns) return;
  const canvas = $("canvas", item), ramp = [
    [colour("--quiet"), colour("--loud")], [colour("--found-quiet"), colour("--found-loud")]];
  canvas.width = columns;
  canvas.height = ROWS;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, ROWS);
  for (let x = 0; x < columns; x++) {
    const time = from + ((x + 0.5) / columns) * (to - from);
    const [quiet, loud] = ramp[Number(time >= result.start && time <= result.end)];
    for (let y = 0; y < ROWS; y++) {
      const level = levels[x * ROWS + (ROWS - 1 - y)] / 255, at = 4 * (y * columns + x);
      for (let c = 0; c < 3; c++) image.data[at + c] = quiet[c] + level * (loud[c] - quiet[c]);
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change",
  () => shown.forEach((result) => result.levels && draw(result)));

// Playing

function toggle(result) {
  if (playing === result && !sound.paused) return sound.pause();
  if (playing === result && !sound.ended) return start();
  playFrom(result, result.start);
}

function playFrom(result, time) {
  if (playing !== result) {
    stop();
    playing = result;
    loading = true;
    sound.src = `sound?${new URLSearchParams({ file: result.file })}`;
  }
  seek(time);
  start();
}

function seek(time) { // what is not loaded yet begins there once it is
  wanted = Math.max(0, Math.min(time, playing.seconds - 0.05));
  playing.at = wanted;
  if (!loading) sound.currentTime = wanted;
  place(playing);
}

sound.addEventListener("loadedmetadata", () => {
  loading = false;
  sound.currentTime = wanted;
});

function start() {
  sound.play().catch((error) => {
    if (error.name === "AbortError") return;
    status.className = "error";
    status.textContent = `${playing ? playing.file : "The sound"} cannot be played by this browser.`;
  });
}

function stop() {
  sound.pause();
  if (playing) playing.item.classList.remove("playing");
  playing = null;
}

function place(result) {
  const { item, from, to, at } = result, head = $(".head", item), picture = $(".picture", item);
  head.hidden = playing !== result || at < from || at > to;
  head.style.left = `${((at - from) / (to - from)) * 100}%`;
  picture.setAttribute("aria-valuenow", at.toFixed(1));
  picture.setAttribute("aria-valuetext", `${clock(at)} of ${clock(result.seconds)}`);
}

function follow() {
  if (!playing) return;
  playing.at = loading || sound.seeking ? wanted : sound.currentTime;
  place(playing);
  if (!sound.paused) requestAnimationFrame(follow);
}

for (const event of ["play", "pause", "ended", "seeked"]) {
  sound.addEventListener(event, () => {
    if (!playing) return;
    playing.item.classList.toggle("playing", !sound.paused);
    const verb = sound.paused ? "Play" : "Pause";
    $(".play", playing.item).setAttribute("aria-label", `${verb} ${playing.file}`);
    follow();
  });
}

// Keyboard: / searches, arrows choose and seek, Enter plays the moment, Space pauses

const chosen = () => shown.findIndex(({ item }) => item.contains(document.activeElement));

function mark(item) {
  shown.forEach((result) => { result.item.tabIndex = result.item === item ? 0 : -1; });
}

function choose(index) {
  if (index < 0) return box.focus();
  const result = shown[Math.min(index, shown.length - 1)];
  if (result) result.item.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === box, at = chosen(), here = shown[at];
  const onButton = event.target.closest("button, label, input") && !typing;
  const keys = {
    "/": () => !typing && (box.focus(), box.select(), true),
    Escape: () => typing && (box.blur(), true),
    ArrowDown: () => shown.length && (choose(typing ? 0 : at + 1), true),
    ArrowUp: () => !typing && shown.length && (choose(at - 1), true),
    ArrowLeft: () => !typing && nudge(here, -1),
    ArrowRight: () => !typing && nudge(here, 1),
    Enter: () => here && !onButton && (playFrom(here, here.start), true),
    " ": () => !typing && !onButton && pauseOr(here),
  };
  if (keys[event.key] && keys[event.key]()) event.preventDefault();
});

function nudge(result, seconds) {
  const which = result || playing;
  if (!which) return false;
  if (which === playing) seek(which.at + seconds);
  else playFrom(which, which.start + seconds);
  return true;
}

function pauseOr(result) {
  const which = playing && !sound.paused ? playing : result || playing;
  if (!which) return false;
  toggle(which);
  return true;
}

// Files: chosen or dropped

$("#file").onchange = (event) => {
  const [file] = event.target.files;
  if (file) searchByFile(file);
  event.target.value = "";
};
let inside = 0;
const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
document.addEventListener("dragenter", (event) => {
  if (carriesFiles(event)) { inside++; $("#drop").hidden = false; }
});
document.addEventListener("dragleave", (event) => {
  if (carriesFiles(event) && --inside <= 0) { inside = 0; $("#drop").hidden = true; }
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  $("#drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) searchByFile(file);
});

// Beginning

form.addEventListener("submit", (event) => {
  event.preventDefault();
  searchFor(box.value);
});
window.addEventListener("popstate", () => fromAddress(true));
const fromAddress = (fromHistory) =>
  searchFor(new URLSearchParams(location.search).get("q") || "", fromHistory);

const about = await (await fetch("collection")).json();
const count = about.files.toLocaleString("en");
$("#collection").textContent = `${count} ${about.files === 1 ? "recording" : "recordings"} in ${about.folder}`;
$("#collection").title = `searched with ${about.model}`;
$("#examples").append(...about.examples.map((text) => {
  const entry = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.onclick = () => searchFor(text);
  entry.append(button);
  return entry;
}));
fromAddress(true);
if (!box.value && matchMedia("(hover: hover)").matches) box.focus();
