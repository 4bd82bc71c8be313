// The state of the filters, and what is drawn again when it changes.

const KINDS = Object.keys(DATA.models[0].kinds);
const STATE = {
  kind: KINDS[0],
  class: null, // place in the list of classes; null for all
  error: null, // kind of error
  cell: null, // [class of the object, class of the detection]
  model: 0, // of the confusion matrix
  score: null, // of what the pictures show; null for that of each model
  shown: { correct: true, wrong: true, missing: true },
  hidden: new Set(), // names of lines that charts leave out
  classOrder: { column: 0, descending: false },
  // The worst first, or those that differ most.
  imageOrder: { column: isCompared ? 11 : 5, descending: isCompared },
  rows: ROWS_AT_A_TIME,
  pictured: [], // images with a picture, in their order
  opened: null, // image in the dialog
  allLabels: false, // there, or those of errors alone
};

// What depends on which part of the state.
const DRAWN = [
  [drawToolbar, ["kind", "class", "error", "cell"]],
  [drawClasses, ["kind", "class", "classOrder"]],
  [drawCurves, ["kind", "class"]],
  [drawErrors, ["kind", "class", "error"]],
  [drawConfusion, ["kind", "model", "cell"]],
  [drawGroups, ["kind"]],
  [drawCalibration, ["kind", "class"]],
  [drawImageControls, ["score", "shown", "imageOrder"]],
  [drawImages, ["kind", "class", "error", "cell", "model", "score", "shown", "imageOrder", "rows"]],
];

// Draws, and gives the focus back to what had it if it was drawn again.
function keepFocus(draw) {
  const key = document.activeElement?.dataset?.key;
  draw();
  if (key && document.activeElement?.dataset?.key !== key) {
    document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
  }
}

function setState(changes) {
  const filters = ["kind", "class", "error", "cell", "model"];
  if (filters.some((name) => name in changes)) STATE.rows = ROWS_AT_A_TIME;
  Object.assign(STATE, changes);
  keepFocus(() => {
    for (const [draw, parts] of DRAWN) {
      if (parts.some((part) => part in changes)) draw();
    }
    if (byId("dialog").open) drawDialog();
  });
}

function drawToolbar() {
  const kinds = element("div", { class: "segments", role: "group", "aria-label": "Masks or boxes" },
    KINDS.map((kind) => element("button", { "aria-pressed": String(kind === STATE.kind),
      "data-key": `kind-${kind}`, onclick: () => setState({ kind }) }, named(kind))));
  const select = (label, id, value, texts, onchange) => element("label", {}, label,
    element("select", { id, "data-key": id, onchange: (event) =>
      onchange(event.target.value === "" ? null : Number(event.target.value)) },
    element("option", { value: "" }, "all"), texts.map(([place, text]) =>
      element("option", { value: place, selected: place === value }, text))));
  const filters = [
    select("Class ", "class-filter", STATE.class, visibleClasses().map((i) => [i, className(i)]),
      (place) => setState({ class: place, cell: null })),
    select("Error ", "error-filter", STATE.error, ERRORS.map(([name], i) => [i, name]),
      (error) => setState({ error, cell: null })),
  ];
  const isFiltered = STATE.class !== null || STATE.error !== null || STATE.cell !== null;
  const clear = element("button", { class: "clear", "data-key": "clear", disabled: !isFiltered,
    onclick: () => setState({ class: null, error: null, cell: null }) },
  isFiltered ? `Clear${describeFilters().replace(" with", ":")}` : "No filter");
  const links = [...document.querySelectorAll("main > section")]
    .filter((section) => !section.hidden)
    .map((section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
  byId("toolbar").replaceChildren(
    element("div", { class: "filters" }, KINDS.length > 1 ? kinds : "", filters, clear,
      element("a", { id: "jump", href: "#images" })),
    element("div", { class: "links" }, links));
}

function start() {
  drawHeader();
  drawNotes();
  drawAverages();
  drawTraining();
  drawDefinitions();
  for (const [draw] of DRAWN) draw();
  let timer = null;
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar comes and goes
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(() => keepFocus(() => {
      for (const draw of [drawCurves, drawCalibration, drawTraining]) draw();
    }), 150);
  });
  byId("dialog").addEventListener("keydown", (event) => {
    const key = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
    const button = key && byId("dialog").querySelector(`[data-key="${key}"]`);
    if (button && !button.disabled && event.target.type !== "range") button.click();
  });
}

start();
