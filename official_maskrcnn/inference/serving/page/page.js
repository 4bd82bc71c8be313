// The page asks the service once for all that it finds; what is shown of it is decided here.

const LARGEST = 1600; // pixels of the canvas' longer side
const SMALLEST = 900;
const LEAST_DRAG = 5; // pixels on the screen; less is a click

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const context = canvas.getContext("2d");

const state = {
  facts: null, // what /model says
  token: "",
  file: null,
  picture: null, // ImageBitmap, upright
  scale: 1, // canvas pixels per pixel of the photograph
  objects: [],
  hidden: new Set(), // names of classes
  chosen: null, // an object
  box: null, // being drawn: {x0, y0, x1, y1} in canvas pixels
};

// ---- the service

async function ask(path, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service does not answer.");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) $("token-form").hidden = false;
  if (!answer.ok) throw new Error(content.error || `The service answered ${answer.status}.`);
  return content;
}

async function readFacts() {
  const facts = (state.facts = await ask("model"));
  const names = Object.values(facts.classes);
  $("title").textContent = facts.name;
  document.title = facts.name;
  $("facts").textContent =
    `version ${facts.version}` + (names.length ? `, ${names.length} classes` : "");
  $("drawing").hidden = !facts.has_masks;
  $("masks").disabled = !facts.has_masks;
  $("class-choice").hidden = !facts.boxes_need_classes;
  const choices = names.map((name) => new Option(name, name));
  $("box-class").replaceChildren(...choices);
}

// ---- masks

// Run lengths out of COCO's text: five bits a character, differences from the last but one.
function readCounts(text) {
  const counts = [];
  for (let place = 0; place < text.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(place++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  return counts;
}

// A mask at the size of the canvas: 1 where the pixel under a canvas pixel's centre is inside.
function readMask(rle, scale, columns, rows) {
  const [height, width] = rle.size;
  const counts = readCounts(rle.counts);
  const mask = new Uint8Array(columns * rows);
  let run = 0;
  let end = counts[0];
  for (let x = 0; x < columns; x++) {
    const column = Math.min(width - 1, Math.floor((x + 0.5) / scale));
    const [first, last] = [column * height, (column + 1) * height];
    while (run < counts.length - 1 && end <= first) end += counts[++run];
    for (let at = run, until = end, from = first; at < counts.length && from < last; ) {
      if (at % 2) {
        const top = Math.ceil((from - first) * scale - 0.5);
        const bottom = Math.min(rows, Math.ceil((Math.min(until, last) - first) * scale - 0.5));
        for (let y = Math.max(0, top); y < bottom; y++) mask[y * columns + x] = 1;
      }
      from = until;
      if (++at < counts.length) until += counts[at];
    }
  }
  return mask;
}

// A picture of a mask: translucent, with an edge.
function paintMask(mask, columns, rows, color) {
  const picture = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  const values = new Uint32Array(pixels.data.buffer);
  const [red, green, blue] = color;
  const base = (blue << 16) | (green << 8) | red;
  const [inside, edge] = [(base | (105 << 24)) >>> 0, (base | (255 << 24)) >>> 0];
  for (let y = 0, i = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, i++) {
      if (!mask[i]) continue;
      const isInner =
        (x === 0 || mask[i - 1]) && (x === columns - 1 || mask[i + 1]) &&
        (y === 0 || mask[i - columns]) && (y === rows - 1 || mask[i + columns]);
      values[i] = isInner ? inside : edge;
    }
  }
  picture.getContext("2d").putImageData(pixels, 0, 0);
  return picture;
}

// ---- objects

// Hues turned by the golden ratio are far apart, however many there are.
function colorOf(number) {
  const hue = (0.02 + 0.61803398875 * number) % 1;
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * 0.9 * (1 - 0.75 * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

const css = (color) => `rgb(${color.join(" ")})`;

function addObjects(found, isDrawn) {
  const { width, height } = canvas;
  for (const entry of found) {
    const color = isDrawn ? [255, 255, 255] : colorOf(entry.class);
    const mask = entry.mask ? readMask(entry.mask, state.scale, width, height) : null;
    const [y0, x0, y1, x1] = entry.bounding_box;
    const object = {
      name: entry.label,
      score: entry.confidence,
      box: [x0 * width, y0 * height, x1 * width, y1 * height],
      isDrawn,
      color,
      mask,
      picture: mask && paintMask(mask, width, height, color),
    };
    if (isDrawn) state.objects.unshift(object);
    else state.objects.push(object);
  }
}

function isShown(object) {
  if (object.isDrawn) return true;
  return object.score >= Number($("threshold").value) && !state.hidden.has(object.name);
}

// ---- drawing

function show() {
  const listed = state.objects.filter(isShown);
  const shown = listed.toReversed(); // the surest, and the user's, on top
  context.drawImage(state.picture, 0, 0, canvas.width, canvas.height);
  if ($("masks").checked) {
    for (const object of shown) if (object.picture) context.drawImage(object.picture, 0, 0);
  }
  const line = 2 * unit();
  if ($("boxes").checked) for (const object of shown) strokeBox(object, line);
  if (state.chosen && shown.includes(state.chosen)) strokeBox(state.chosen, line * 2.5);
  if ($("labels").checked) shown.forEach(writeLabel);
  if (state.box) {
    context.setLineDash([8 * unit(), 6 * unit()]);
    strokeBox({ box: corners(state.box), color: [255, 255, 255] }, line);
    context.setLineDash([]);
  }
  listObjects(listed);
}

// Canvas pixels per pixel of the page: lines and letters are as large on a phone.
const unit = () => canvas.width / (canvas.clientWidth || canvas.width);

function strokeBox({ box: [x0, y0, x1, y1], color }, line) {
  context.strokeStyle = "rgb(0 0 0 / 60%)";
  context.lineWidth = line * 2;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.strokeStyle = css(color);
  context.lineWidth = line;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

function writeLabel(object) {
  const size = 13 * unit();
  const text = object.isDrawn ? object.name : `${object.name} ${object.score.toFixed(2)}`;
  context.font = `${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size * 0.5;
  const x = Math.max(0, Math.min(object.box[0], canvas.width - width));
  const y = Math.max(0, object.box[1] - size * 1.35);
  context.fillStyle = css(object.color);
  context.fillRect(x, y, width, size * 1.35);
  const [red, green, blue] = object.color;
  context.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 120 ? "#000" : "#fff";
  context.fillText(text, x + size * 0.25, y + size);
}

function swatch(color) {
  const patch = document.createElement("span");
  patch.className = "swatch";
  patch.style.backgroundColor = css(color);
  return patch;
}

function listObjects(shown) {
  const focused = [...$("objects").querySelectorAll("button")].indexOf(document.activeElement);
  $("count").textContent = `${shown.length} of ${state.objects.length}`;
  $("objects").replaceChildren(
    ...shown.map((object) => {
      const item = document.createElement("li");
      const name = document.createElement("button");
      name.type = "button";
      name.textContent = object.isDrawn
        ? `${object.name}, your box`
        : `${object.name} ${object.score.toFixed(2)}`;
      name.setAttribute("aria-pressed", object === state.chosen);
      name.onclick = () => choose(object === state.chosen ? null : object);
      item.append(swatch(object.color), name);
      if (object.isDrawn) {
        const remove = document.createElement("button");
        remove.type = "button";
        remove.textContent = "\u00d7";
        remove.setAttribute("aria-label", `Remove ${object.name}, your box`);
        remove.onclick = () => {
          state.objects = state.objects.filter((other) => other !== object);
          show();
        };
        item.append(remove);
      }
      return item;
    }),
  );
  if (focused >= 0) $("objects").querySelectorAll("button")[focused]?.focus();
}

function listClasses() {
  const counts = new Map();
  for (const { name, isDrawn, color } of state.objects) {
    if (!isDrawn) counts.set(name, { color, count: (counts.get(name)?.count ?? 0) + 1 });
  }
  $("classes").replaceChildren(
    ...[...counts].sort(([a], [b]) => a.localeCompare(b)).map(([name, { color, count }]) => {
      const item = document.createElement("li");
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !state.hidden.has(name);
      box.onchange = () => {
        state.hidden[box.checked ? "delete" : "add"](name);
        show();
      };
      const number = document.createElement("output");
      number.textContent = count;
      label.append(box, ` ${name}`);
      item.append(swatch(color), label, number);
      return item;
    }),
  );
}

function choose(object) {
  state.chosen = object;
  show();
}

// ---- a photograph

function say(text, isFault = false) {
  $("status").textContent = text;
  $("status").classList.toggle("fault", isFault);
}

let opened = 0; // calls of `open`; what an earlier one waits for is given up

async function open(file) {
  if (!file) return;
  const number = ++opened;
  forget();
  state.file = file;
  say("Looking\u2026");
  await ready;
  if (number !== opened) return;
  try {
    const limit = state.facts?.max_bytes;
    if (limit && file.size > limit) {
      throw new Error(`The file has ${file.size} bytes; at most ${limit} are taken.`);
    }
    const picture = await createImageBitmap(file).catch(() => {
      throw new Error("This is no image that the browser can show.");
    });
    if (number !== opened) return;
    const longer = Math.max(picture.width, picture.height);
    state.scale = Math.min(LARGEST, Math.max(SMALLEST, longer)) / longer;
    canvas.width = Math.max(1, Math.round(picture.width * state.scale));
    canvas.height = Math.max(1, Math.round(picture.height * state.scale));
    state.picture = picture;
    showCanvas(true);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const start = performance.now();
    const form = state.facts?.has_masks === false ? "none" : "rle";
    const found = await ask(`score?prob=0&mask=${form}`, { method: "POST", body: file });
    if (number !== opened) return;
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    addObjects(found, false);
    $("controls").disabled = false;
    listClasses();
    show();
    say(`${found.length} objects in ${seconds} s; the surest are shown.`);
  } catch (error) {
    if (number !== opened) return;
    showCanvas(state.picture !== null);
    say(error.message, true);
  }
}

// What was found in a photograph goes at once; its picture goes when another comes.
function forget() {
  Object.assign(state, { file: null, picture: null, objects: [], chosen: null, box: null });
  state.hidden.clear();
  pressed = null;
  markDrawing(false);
  $("controls").disabled = true;
  listClasses();
  listObjects([]);
}

function showCanvas(isShown) {
  canvas.hidden = $("another").hidden = !isShown;
  $("drop").hidden = isShown;
}

$("file").onchange = (event) => open(event.target.files[0]);
$("another").onclick = () => {
  $("file").value = "";
  $("file").click();
};
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  open(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => open(event.clipboardData.files[0]));

$("threshold").oninput = (event) => {
  $("threshold-value").textContent = Number(event.target.value).toFixed(2);
  show();
};
for (const id of ["masks", "boxes", "labels"]) $(id).onchange = show;
addEventListener("resize", () => state.picture && show());

// ---- a box of the user's

const corners = ({ x0, y0, x1, y1 }) => [
  Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1),
];

// Where a pointer is, in pixels of the canvas.
function place(event) {
  const frame = canvas.getBoundingClientRect();
  const [left, top] = [frame.left + canvas.clientLeft, frame.top + canvas.clientTop];
  const within = (value, size) => Math.min(size, Math.max(0, value));
  return [
    within(((event.clientX - left) * canvas.width) / canvas.clientWidth, canvas.width),
    within(((event.clientY - top) * canvas.height) / canvas.clientHeight, canvas.height),
  ];
}

const isDrawing = () => $("draw").getAttribute("aria-pressed") === "true";
const canDraw = () => !$("controls").disabled && state.facts?.has_masks !== false;

function markDrawing(isOn) {
  $("draw").setAttribute("aria-pressed", isOn);
  canvas.classList.toggle("drawing", isOn);
}

function setDrawing(isOn) {
  markDrawing(isOn);
  state.box = null;
  if (isOn) {
    const { width, height } = canvas;
    state.box = { x0: width * 0.375, y0: height * 0.375, x1: width * 0.625, y1: height * 0.625 };
    canvas.focus();
  }
  show();
}

$("draw").onclick = () => setDrawing(!isDrawing());

let pressed = null; // where the pointer went down
canvas.onpointerdown = (event) => {
  if (event.button || !canDraw()) return;
  if (event.pointerType === "touch" && !isDrawing()) return; // a finger scrolls
  pressed = event;
  canvas.setPointerCapture(event.pointerId);
};
canvas.onpointermove = (event) => {
  if (!pressed || distance(pressed, event) < LEAST_DRAG) return;
  const [x0, y0] = place(pressed);
  const [x1, y1] = place(event);
  state.box = { x0, y0, x1, y1 };
  show();
};
canvas.onpointerup = (event) => {
  if (!pressed) return;
  const isClick = distance(pressed, event) < LEAST_DRAG;
  pressed = null;
  if (isClick) choose(objectAt(...place(event)));
  else segment();
};
canvas.onpointercancel = () => {
  pressed = state.box = null;
  show();
};

const distance = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);

// The smallest one whose mask, or else whose box, has the point.
function objectAt(x, y) {
  const index = Math.floor(y) * canvas.width + Math.floor(x);
  const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const at = state.objects.filter(isShown).filter(({ mask, box: [x0, y0, x1, y1] }) =>
    mask ? mask[index] : x >= x0 && x <= x1 && y >= y0 && y <= y1);
  return at.sort((a, b) => area(a) - area(b))[0] ?? null;
}

canvas.onkeydown = (event) => {
  if (!canDraw()) return;
  if (event.key === "Escape") return setDrawing(false);
  if (!isDrawing() || !state.box) return;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = steps[event.key];
  if (event.key === "Enter") segment();
  if (!step) return;
  event.preventDefault();
  const [dx, dy] = step.map((way) => way * Math.max(canvas.width, canvas.height) * 0.01);
  const { x0, y0, x1, y1 } = state.box;
  const least = 4;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  if (event.shiftKey) {
    state.box.x1 = clamp(x1 + dx, x0 + least, canvas.width);
    state.box.y1 = clamp(y1 + dy, y0 + least, canvas.height);
  } else {
    const [mx, my] = [clamp(dx, -x0, canvas.width - x1), clamp(dy, -y0, canvas.height - y1)];
    state.box = { x0: x0 + mx, y0: y0 + my, x1: x1 + mx, y1: y1 + my };
  }
  show();
};

async function segment() {
  const [x0, y0, x1, y1] = corners(state.box);
  const { width, height } = canvas;
  const box = [y0 / height, x0 / width, y1 / height, x1 / width].map((v) => v.toFixed(6)).join();
  const query = new URLSearchParams({ box, mask: "rle" });
  if (state.facts.boxes_need_classes) query.set("class", $("box-class").value);
  const number = opened;
  say("Looking\u2026");
  try {
    const found = await ask(`segment?${query}`, { method: "POST", body: state.file });
    if (number !== opened) return;
    addObjects(found, true);
    const area = state.objects[0].mask.reduce((sum, value) => sum + value, 0);
    say(area ? "The mask of your box is drawn in white." : "Nothing was found in your box.");
  } catch (error) {
    if (number !== opened) return;
    say(error.message, true);
  }
  setDrawing(false);
}

// ---- the token

$("token-form").onsubmit = async (event) => {
  event.preventDefault();
  state.token = $("token").value;
  try {
    await readFacts();
    $("token-form").hidden = true;
    say("");
    if (state.file) open(state.file);
  } catch (error) {
    say(error.message, true);
  }
};

const ready = readFacts().catch((error) => say(error.message, true));
