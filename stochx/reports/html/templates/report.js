"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const root = document.documentElement;
root.classList.add("js");
for (const control of all(".theme, .filters, .frame-by, .copy")) control.hidden = false;

// Colours: those of the system until the reader chooses; a file may not be allowed to remember.
const remembered = { get: () => { try { return localStorage.getItem("stochx-theme"); } catch { return null; } },
                     set: (theme) => { try { localStorage.setItem("stochx-theme", theme); } catch { /* not remembered */ } } };
const button = document.querySelector(".theme");
const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const show = (theme) => { if (theme === "dark" || theme === "light") root.dataset.theme = theme; button.setAttribute("aria-pressed", isDark()); };
show(remembered.get());
button.addEventListener("click", () => { const theme = isDark() ? "light" : "dark"; show(theme); remembered.set(theme); });

// Tables: a heading sorts its column, up and then down; empty cells come last.
const textOf = (row, place) => row.cells[place].textContent.trim();
function compare(a, b, numeric) {
  if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
  const [x, y] = [parseFloat(a), parseFloat(b)];
  return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : x - y;
}
for (const heading of all("thead th")) {
  const control = document.createElement("button");
  control.type = "button";
  control.append(...heading.childNodes);
  heading.append(control);
  control.addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of all("th", heading.parentElement)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = heading.classList.contains("number"), place = heading.cellIndex;
    const body = heading.closest("table").tBodies[0];
    const empty = (text) => text === "" || text === "–" || (numeric && isNaN(parseFloat(text)));
    const rows = [...body.rows].map((row) => [row, textOf(row, place)]);
    rows.sort(([, a], [, b]) => empty(a) - empty(b) || (down ? -1 : 1) * compare(a, b, numeric));
    body.append(...rows.map(([row]) => row));
  });
}

// Filters: what happened to an image, and its class; they hold for the gallery and the tables of a section.
for (const filters of all(".filters")) {
  const chips = all("[data-tag]", filters), select = filters.querySelector("[data-group]");
  const count = filters.querySelector(".count");
  const things = all("[data-tags]", filters.closest(".run"));
  const items = things.filter((thing) => thing.matches(".item")), counted = items.length ? items : things;
  const apply = () => {
    const tag = chips.find((chip) => chip.getAttribute("aria-pressed") === "true")?.dataset.tag || "";
    const group = select ? select.value : "";
    for (const thing of things) {
      const fits = (!tag || thing.dataset.tags.split(" ").includes(tag)) && (!group || thing.dataset.group === group);
      thing.hidden = !fits;
    }
    if (tag && !items.some((item) => !item.hidden)) // only a table has them
      for (const thing of things) if (!thing.hidden && thing.closest("details")) thing.closest("details").open = true;
    const kept = counted.filter((thing) => !thing.hidden).length;
    count.textContent = `${kept} of ${counted.length} ${items.length ? "images" : "rows"}`;
  };
  for (const chip of chips) chip.addEventListener("click", () => {
    for (const other of chips) other.setAttribute("aria-pressed", other === chip);
    apply();
  });
  select?.addEventListener("change", apply);
  apply();
}

// Galleries: maps lie over the image of their row, and a slider blends the two.
for (const frame of all(".frame[data-shared]")) {
  const image = frame.closest(".item").querySelector("img");
  const under = new Image(image.getAttribute("width"), image.getAttribute("height"));
  Object.assign(under, { className: "under", alt: "", loading: "lazy", decoding: "async", src: image.src });
  frame.prepend(under);
}
for (const slider of all(".blend-by input")) slider.addEventListener("input", () =>
  slider.closest(".run, .viewer").style.setProperty("--blend", slider.value / 100));

// The viewer: one image, enlarged; arrow keys go on to the next.
const viewer = document.querySelector(".viewer");
let opened = null;
const seen = (item) => all(".item", item.closest(".items")).filter((other) => !other.hidden);
function open(item) {
  opened = item;
  const copy = item.cloneNode(true), others = seen(item);
  copy.removeAttribute("tabindex");
  const body = viewer.querySelector(".viewer-body");
  body.replaceChildren(copy);
  const blend = item.closest(".run").querySelector(".blend-by input");
  viewer.querySelector(".blend-by").hidden = !blend;
  if (blend) viewer.querySelector(".blend-by input").value = blend.value;
  viewer.style.setProperty("--blend", blend ? blend.value / 100 : 0.5);
  viewer.querySelector(".viewer-place").textContent = `${others.indexOf(item) + 1} of ${others.length}`;
  if (!viewer.open) viewer.showModal();
}
function step(item, by) {
  const others = seen(item);
  return others[Math.min(others.length - 1, Math.max(0, others.indexOf(item) + by))];
}
viewer.addEventListener("click", (event) => {
  const control = event.target.closest("button");
  if (event.target === viewer || control?.hasAttribute("data-close")) viewer.close();
  else if (control) open(step(opened, Number(control.dataset.step)));
});
viewer.addEventListener("close", () => opened?.focus());
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };
viewer.addEventListener("keydown", (event) => {
  if (STEPS[event.key] && !event.target.matches("input")) open(step(opened, STEPS[event.key]));
});

// Keys in a gallery: arrows, Home and End move, Enter enlarges. One item of each gallery is in the tab order.
for (const list of all(".items")) {
  const items = all(".item", list);
  items.forEach((item, place) => { item.tabIndex = place ? -1 : 0; });
  list.addEventListener("click", (event) => {
    const item = event.target.closest(".item");
    if (item && getSelection().isCollapsed) open(item); // text may be selected
  });
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest(".item");
    if (event.key === "Enter") { event.preventDefault(); open(item); return; }
    const others = seen(item);
    const next = event.key === "Home" ? others[0] : event.key === "End" ? others.at(-1)
      : STEPS[event.key] ? step(item, STEPS[event.key]) : null;
    if (!next) return;
    event.preventDefault();
    for (const other of items) other.tabIndex = other === next ? 0 : -1;
    next.focus();
  });
}

// Planes: a slider over networks.
for (const block of all("[data-frames]")) {
  const frames = all(".frame-list > li", block), slider = block.querySelector(".frame-by input");
  const turn = (place) => {
    frames.forEach((frame, n) => frame.classList.toggle("on", n === place));
    if (!slider) return;
    const label = frames[place].dataset.label;
    block.querySelector(".frame-name").textContent = `${place + 1} of ${frames.length}: ${label}`;
    slider.setAttribute("aria-valuetext", label);
  };
  slider?.addEventListener("input", () => turn(Number(slider.value)));
  turn(0);
}

for (const copy of all(".copy")) copy.addEventListener("click", async () => {
  const code = copy.parentElement.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); copy.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(code); copy.textContent = "Selected"; }
});
