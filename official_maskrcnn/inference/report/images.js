// The images: which fit the filters, their pictures, and the table of all.

const [MISSED, CORRECT, IGNORED] = [5, 6, 7]; // of the outcomes
const ROWS_AT_A_TIME = 100;
const NARROW = 640; // pixels of a window in which pictures stand below each other
const PICTURES = new Map(DATA.pictures.map((picture) => [picture.image, picture]));

const imagesOf = (model) => DATA.models[model].kinds[STATE.kind].images;
const scoreOf = (model) => STATE.score ?? DATA.models[model].score;

// Whether some three numbers of a flat list fit.
function anyThree(flat, fits) {
  for (let i = 0; i < flat.length; i += 3) {
    if (fits(flat[i], flat[i + 1], flat[i + 2])) return true;
  }
  return false;
}

function fitsFilters(image) {
  const { class: wanted, error, cell } = STATE;
  const any = (test) => DATA.models.some((_, model) => test(imagesOf(model), model));
  if (cell !== null) {
    return anyThree(imagesOf(STATE.model).confusions[image],
      (object, found) => object === cell[0] && found === cell[1]);
  }
  if (error !== null) {
    return any((own) => anyThree(own.errors[image],
      (place, kind) => kind === error && (wanted === null || place === wanted)));
  }
  return wanted === null || any((own) => anyThree(own.confusions[image],
    (object, found) => object === wanted || found === wanted));
}

function errorsText(model, image) {
  const flat = imagesOf(model).errors[image];
  const counts = new Array(ERRORS.length).fill(0);
  for (let i = 0; i < flat.length; i += 3) counts[flat[i + 1]] += flat[i + 2];
  return counts.map((count, j) => (count ? `${count} ${ERRORS[j][0].toLowerCase()}` : ""))
    .filter(Boolean).join(", ");
}

function imageColumns() {
  const quality = (model) => (image) => imagesOf(model).quality[image];
  const columns = [
    { title: "Image", text: true, value: (image) => DATA.images.name[image], cell: imageLink },
    { title: "Objects", value: (image) => DATA.images.objects[image],
      cell: (image) => DATA.images.objects[image] },
  ];
  DATA.models.forEach((_, model) => {
    for (const [title, key] of [["Found", "correct"], ["Wrong", "wrong"], ["Missed", "missing"]]) {
      const value = (image) => imagesOf(model)[key][image];
      columns.push({ title: `${title} ${letter(model)}`.trim(), value, cell: value });
    }
    columns.push({ title: `Quality ${letter(model)}`.trim(), value: quality(model),
      cell: (image) => [isCompared ? null : bar(quality(model)(image)),
        fixed(quality(model)(image), 2)] });
  });
  if (isCompared) {
    const value = (image) => {
      const [a, b] = [quality(0)(image), quality(1)(image)];
      return a === null && b === null ? null : (b ?? 1) - (a ?? 1); // nothing to find, nothing found
    };
    const size = (image) => (value(image) === null ? null : Math.abs(value(image)));
    columns.push({ title: "B − A", value,
      cell: (image) => [differenceBar(value(image), 1), change(value(image), 2)] });
    columns.push({ title: "Differ by", value: size, cell: (image) => fixed(size(image), 2) });
  } else {
    columns.push({ title: "Errors", text: true, cell: (image) => errorsText(0, image) });
  }
  return columns;
}

function imageLink(image) {
  const name = DATA.images.name[image];
  if (!PICTURES.has(image)) return name;
  return element("button", { class: "link", "data-key": `image-${image}`,
    onclick: () => openDialog(image) }, name);
}

function drawImages() {
  const columns = imageColumns();
  const fitting = DATA.images.id.map((_, image) => image).filter(fitsFilters);
  const rows = sortRows(columns, fitting, STATE.imageOrder);
  const pictured = rows.filter((image) => PICTURES.has(image));
  STATE.pictured = pictured;
  byId("jump").textContent = `${rows.length} of ${plural(DATA.images.id.length, "image")} ↓`;
  byId("image-count").textContent = `${plural(rows.length, "image")} of ${
    DATA.images.id.length}${describeFilters()}; ${pictured.length} of them with a picture.`;
  byId("gallery").className = isCompared ? "wide" : "";
  byId("gallery").replaceChildren(...pictured.map(card));
  const more = rows.length - STATE.rows;
  byId("image-table").replaceChildren(
    sortableTable("All images", columns, rows.slice(0, STATE.rows), STATE.imageOrder,
      (imageOrder) => setState({ imageOrder })),
    more > 0 ? element("button", { class: "more", "data-key": "more",
      onclick: () => setState({ rows: STATE.rows + ROWS_AT_A_TIME }) },
    `${Math.min(more, ROWS_AT_A_TIME)} more of ${more}`) : "");
}

function describeFilters() {
  const parts = [];
  if (STATE.cell !== null) {
    parts.push(cellText(...STATE.cell));
  } else {
    if (STATE.error !== null) parts.push(ERRORS[STATE.error][2]);
    if (STATE.class !== null) parts.push(`class ${className(STATE.class)}`);
  }
  return parts.length ? ` with ${parts.join(", ")}` : "";
}

// What an object is at the score: found, or missed, and then whether an error lies on it.
function objectOutcome(object, model) {
  if (object.crowd) return IGNORED;
  const score = object.scores[model][STATE.kind];
  if (score === undefined) return IGNORED;
  return score !== null && score >= scoreOf(model) ? CORRECT : MISSED;
}

const outcomeClass = (outcome) =>
  ({ [CORRECT]: "correct", [MISSED]: "missing", [IGNORED]: "ignored" })[outcome] ?? "wrong";

// Whether the filters are about something else.
function isAside(place, outcome) {
  const { class: wanted, error, cell } = STATE;
  if (cell !== null) return !cell.includes(place);
  return (wanted !== null && place !== wanted) || (error !== null && outcome !== error);
}

function outline(entry, picture, outcome, text) {
  const [x, y, width, height] = entry.box;
  const isMask = STATE.kind === "mask" && entry.outline;
  const kind = `${outcomeClass(outcome)} ${isAside(entry.class, outcome) ? "aside" : ""}`;
  const title = shape("title", {}, text);
  const drawn = isMask
    ? shape("path", { class: kind, d: entry.outline, "fill-rule": "evenodd" }, title)
    : shape("rect", { class: kind, x, y, width, height }, title);
  const size = labelSize(picture);
  const room = picture.width - 0.58 * size * text.length; // about where it must begin
  const label = shape("text", { class: kind, x: Math.max(2, Math.min(x, room)),
    y: Math.max(size, y - size / 4), "font-size": size }, text);
  return [drawn, label];
}

// In pixels of the picture, so that it is 12 on the screen when the picture is enlarged.
function labelSize(picture) {
  const columns = window.innerWidth <= NARROW ? 1 : DATA.models.length + 1;
  return 12 * picture.width * columns / (0.93 * Math.min(window.innerWidth, 1770));
}

function objectPanel(picture, shownModels) {
  const shapes = picture.objects.map((object) => {
    const outcomes = shownModels.map((model) => objectOutcome(object, model));
    // Beside two models: found by both, or missed by one of them at least.
    const outcome = outcomes.includes(MISSED) ? MISSED : outcomes[0];
    const hides = (outcome === CORRECT && !STATE.shown.correct)
      || (outcome === MISSED && !STATE.shown.missing);
    if (hides) return [];
    const missedBy = shownModels.filter((_, i) => outcomes[i] === MISSED).map(letter).join(" and ");
    const what = outcome === CORRECT ? "found" : outcome === IGNORED ? "not counted"
      : `missed ${missedBy && isCompared ? `by ${missedBy}` : ""}`.trim();
    return outline(object, picture, outcome, `${className(object.class)}, ${what}`);
  });
  return panel(picture, "Ground truth", shapes);
}

function detectionPanel(picture, model) {
  const shapes = picture.found[model].filter((found) => found.score >= scoreOf(model)).map((found) => {
    const outcome = found.outcomes[STATE.kind];
    const isRight = outcome === CORRECT || outcome === IGNORED;
    if (isRight ? !STATE.shown.correct : !STATE.shown.wrong) return [];
    const what = outcome === CORRECT ? `IoU ${fixed(found.ious[STATE.kind], 2)}`
      : outcome === IGNORED ? "on a crowd" : ERRORS[outcome][0].toLowerCase();
    return outline(found, picture, outcome,
      `${className(found.class)} ${fixed(found.score, 2)}, ${what}`);
  });
  return panel(picture, isCompared ? `Prediction ${letter(model)}` : "Prediction", shapes);
}

function panel(picture, title, shapes) {
  const { width, height } = picture;
  const image = picture.uri
    ? element("img", { src: picture.uri, alt: "", width, height, loading: "lazy" })
    : element("div", { class: "missing-image", style: `aspect-ratio:${width}/${height}` },
      "The image cannot be read.");
  const drawn = shapes.flat();
  const texts = drawn.filter((node) => node.tagName === "text");
  const outlines = drawn.filter((node) => node.tagName !== "text").reverse();
  return element("figure", {}, element("div", { class: "frame" }, image,
    shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" },
      outlines, texts)), element("figcaption", {}, title));
}

function panels(picture) {
  const models = DATA.models.map((_, model) => model);
  return element("div", { class: "panels" }, objectPanel(picture, models),
    models.map((model) => detectionPanel(picture, model)));
}

function caption(image) {
  const counts = DATA.models.map((_, model) => {
    const own = imagesOf(model);
    const errors = errorsText(model, image);
    return `${letter(model)} quality ${fixed(own.quality[image], 2)}: ${own.correct[image]} found, ${
      own.wrong[image]} wrong, ${own.missing[image]} missed${errors ? `; errors: ${errors}` : ""}`
      .trim();
  });
  return [element("b", {}, DATA.images.name[image]),
    counts.map((text) => element("div", { class: "muted" }, text))];
}

function card(image) {
  const picture = PICTURES.get(image);
  return element("article", { class: "card" },
    element("button", { class: "open", "data-key": `card-${image}`,
      "aria-label": `Enlarge ${DATA.images.name[image]}`, onclick: () => openDialog(image) },
    panels(picture)), element("div", { class: "caption" }, caption(image)));
}

function openDialog(image) {
  STATE.opened = image;
  drawDialog();
  if (!byId("dialog").open) byId("dialog").showModal();
}

function drawDialog() {
  const order = STATE.pictured.includes(STATE.opened) ? STATE.pictured : [STATE.opened];
  const place = order.indexOf(STATE.opened);
  const step = (by, text, key) => element("button", { disabled: !order[place + by],
    "data-key": key, onclick: () => openDialog(order[place + by]) }, text);
  byId("dialog").replaceChildren(
    element("div", { class: "bar-of-buttons" }, step(-1, "← Previous", "previous"),
      step(1, "Next →", "next"), colours(),
      element("button", { "aria-pressed": String(STATE.allLabels), "data-key": "labels",
        onclick: () => setState({ allLabels: !STATE.allLabels }) }, "All labels"),
      element("button", { onclick: () => byId("dialog").close(), "data-key": "close" }, "Close")),
    element("div", { class: STATE.allLabels ? "" : "few-labels" },
      panels(PICTURES.get(STATE.opened))),
    element("div", { class: "caption" }, caption(STATE.opened)));
}

function colours() {
  return element("span", { class: "colours" },
    [["correct", "found, right"], ["wrong", "wrong"], ["missing", "missed"]].map(([kind, text]) =>
      element("span", { class: kind }, text)));
}

function drawImageControls() {
  const box = (key, text) => element("label", { class: `check ${key}` },
    element("input", { type: "checkbox", checked: STATE.shown[key], "data-key": `shown-${key}`,
      onchange: (event) => setState({ shown: { ...STATE.shown, [key]: event.target.checked } }) }),
    text);
  const value = scoreOf(0);
  const text = STATE.score === null
    ? DATA.models.map((_, i) => `${letter(i)} ${fixed(scoreOf(i), 2)}`.trim()).join(", ")
    : fixed(STATE.score, 2);
  const options = imageColumns().map((column, i) => (column.value
    ? element("option", { value: i, selected: STATE.imageOrder.column === i }, column.title) : null));
  byId("image-controls").replaceChildren(
    element("label", {}, "Score in the pictures ",
      element("input", { type: "range", min: 0, max: 1, step: 0.01, value, id: "score",
        "data-key": "score", oninput: (event) => setState({ score: Number(event.target.value) }) }),
      element("output", {}, text)),
    STATE.score === null ? "" : element("button", { "data-key": "reset-score",
      onclick: () => setState({ score: null }) }, "as counted"),
    element("span", { class: "checks" }, box("correct", "found"), box("wrong", "wrong"),
      box("missing", "missed")),
    element("label", {}, "Sort by ", element("select", { id: "sort", "data-key": "sort",
      onchange: (event) => setState({ imageOrder: { ...STATE.imageOrder,
        column: Number(event.target.value) } }) }, options)),
    element("button", { "data-key": "direction", onclick: () => setState({ imageOrder: {
      ...STATE.imageOrder, descending: !STATE.imageOrder.descending } }) },
    STATE.imageOrder.descending ? "descending ↓" : "ascending ↑"));
}
