// The sections with figures. Each function draws one of them for the state of the filters.

// Name, what it is, and how an image with it is called; in the order of the figures.
const ERRORS = [
  ["Class", "on an object of another class", "a class error"],
  ["Localisation", "of the right class, IoU 0.1 to 0.5", "a localisation error"],
  ["Both", "neither the right class nor the IoU", "an error of both"],
  ["Duplicate", "on an object that a higher score has found", "a duplicate"],
  ["Background", "on nothing", "a detection on background"],
  ["Missed", "objects that nothing finds, not even in error", "a missed object"],
];
const MOST_CONFUSED = 8;
const COLUMNS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"];
const SUBSETS = [["", "all classes"], ["/seen", "seen classes"], ["/unseen", "unseen classes"]];

const named = (kind) => ({ mask: "Masks", box: "Boxes" })[kind];
const className = (place) => (place < DATA.classes.length ? DATA.classes[place].name : "background");

// What a cell of the confusion matrix counts.
function cellText(row, column) {
  const background = DATA.classes.length;
  if (row === background) return `${className(column)} detected on no object`;
  if (column === background) return `${className(row)} not detected`;
  return `${className(row)} detected as ${className(column)}`;
}

// The letter of a model where there are two.
const letter = (place) => (isCompared ? "AB"[place] : "");
const letters = (text) => DATA.models.map((_, i) => (isCompared ? `${text} ${letter(i)}` : text));

function drawHeader() {
  const objects = sum(DATA.images.objects);
  const names = DATA.models.map((model, i) => element("span", { class: `model${i}` },
    isCompared ? element("b", {}, `${letter(i)} `) : null, model.name));
  byId("header").replaceChildren(
    element("h1", {}, isCompared ? "Comparison of two models" : "Report of a model"),
    element("p", { class: "names" }, names),
    element("p", { class: "muted" }, `${plural(DATA.images.id.length, "image")}, ${
      plural(objects, "object")} of ${plural(DATA.classes.length, "class", "classes")} in ${DATA.annotations}; ${DATA.time.replace("T", " ").replace("+00:00", " UTC")
    }, official-maskrcnn ${DATA.version}`));
}

function drawNotes() {
  const notes = DATA.models.flatMap((model, i) =>
    model.notes.map((note) => element("p", { class: "note" }, `${letter(i)} ${note}`.trim())));
  byId("notes").replaceChildren(...notes);
}

function drawAverages() {
  const metric = (i, name) => DATA.models[i].metrics[name];
  const tiles = KINDS.flatMap((kind) => [["AP", ""], ["AP50", ""], ["AP", "/seen"],
    ["AP", "/unseen"]].map(([ap, subset]) => [kind, ap, subset]))
    .filter(([kind, ap, subset]) => DATA.models.some((_, i) => isNumber(metric(i, kind + "/" + ap + subset))))
    .map(([kind, ap, subset]) => {
      const values = DATA.models.map((_, i) => metric(i, `${kind}/${ap}${subset}`));
      const what = `${kind === "mask" ? "Mask" : "Box"} ${ap}${subset.replace("/", ", ")}`;
      return element("div", { class: "tile" },
        element("div", { class: "muted" }, what),
        element("div", { class: "value" }, values.map((value, i) => [
          i ? element("span", { class: "muted" }, " → ") : null, fixed(value)])),
        isCompared ? change(difference(...values)) : null);
    });
  byId("tiles").replaceChildren(...tiles);
  const rows = KINDS.flatMap((kind) => SUBSETS
    .filter(([subset]) => DATA.models.some((_, i) => isNumber(metric(i, `${kind}/AP${subset}`))))
    .flatMap(([subset, text]) => {
      const values = DATA.models.map((_, i) => COLUMNS.map((c) => metric(i, kind + "/" + c + subset)));
      const title = (more) => element("th", { scope: "row" }, `${named(kind)}, ${text}`, more);
      const lines = values.map((own, i) => element("tr", {},
        title(isCompared ? element("b", {}, ` ${letter(i)}`) : null),
        own.map((value) => element("td", {}, fixed(value)))));
      if (isCompared) {
        lines.push(element("tr", { class: "last" }, title(" B − A"),
          values[0].map((value, j) => element("td", {}, change(difference(value, values[1][j]))))));
      }
      return lines;
    }));
  byId("averages").replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, element("th"),
      COLUMNS.map((column) => element("th", { scope: "col" }, column)))),
    element("tbody", {}, rows)));
}

function classButton(place, toggles = true) {
  const isOn = STATE.class === place;
  return element("button", { class: "link", "aria-pressed": String(isOn), "data-key": `class-${place}`,
    onclick: () => setState({ class: isOn && toggles ? null : place, cell: null }) }, className(place));
}

function classColumns() {
  const kinds = DATA.models.map((model) => model.kinds[STATE.kind]);
  const totals = DATA.models.map((_, i) => confusionOf(i));
  const ap = (i, place, which = 0) => kinds[i].ap[place][which];
  const detected = (i, place) => sum(totals[i].map((row) => row[place]));
  const objects = (place) => kinds[0].objects[place];
  const ratio = (a, b) => (b ? a / b : null);
  const columns = [
    { title: "Class", text: true, value: className, cell: (place) => classButton(place) },
    { title: "Objects", value: objects, cell: objects },
  ];
  if (DATA.classes.some((own) => own.seen !== null)) {
    columns.splice(1, 0, { title: "Masks", hint: "in training", text: true,
      value: (place) => String(DATA.classes[place].seen),
      cell: (place) => (DATA.classes[place].seen ? "seen" : "unseen") });
  }
  const plain = (title, hint, value, withBar = false) => columns.push({ title, hint, value,
    cell: (place) => [withBar ? bar(value(place)) : null, fixed(value(place))] });
  if (isCompared) {
    const changes = visibleClasses().map((place) => difference(ap(0, place), ap(1, place)));
    const largest = Math.max(0, ...changes.map(Math.abs));
    letters("AP").forEach((title, i) => plain(title, "", (place) => ap(i, place)));
    const value = (place) => difference(ap(0, place), ap(1, place));
    columns.push({ title: "B − A", value,
      cell: (place) => [differenceBar(value(place), largest), change(value(place))] });
    letters("AP50").forEach((title, i) => plain(title, "", (place) => ap(i, place, 1)));
    const value50 = (place) => difference(ap(0, place, 1), ap(1, place, 1));
    columns.push({ title: "B − A", value: value50, cell: (place) => change(value50(place)) });
  } else {
    plain("AP", "mean over IoU 0.50 to 0.95", (place) => ap(0, place), true);
    plain("AP50", "", (place) => ap(0, place, 1));
    plain("AP75", "", (place) => ap(0, place, 2));
  }
  DATA.models.forEach((model, i) => {
    const hint = `of detections with a score of at least ${model.score}, at an IoU of 0.5`;
    const hits = (place) => totals[i][place][place];
    plain(letters("Precision")[i], hint, (place) => ratio(hits(place), detected(i, place)));
    plain(letters("Recall")[i], hint, (place) => ratio(hits(place), objects(place)));
  });
  if (!isCompared) {
    const worst = (place) => {
      const costs = kinds[0].errors.costs[place];
      const most = Math.max(...costs);
      return most > 0.0005 ? `${ERRORS[costs.indexOf(most)][0]} ${signed(-most)}` : "–";
    };
    columns.push({ title: "Costliest error", hint: "and what it costs in AP50", text: true,
      value: (place) => -Math.max(...kinds[0].errors.costs[place]), cell: worst });
  }
  return columns;
}

function drawClasses() {
  const columns = classColumns();
  byId("class-table").replaceChildren(sortableTable("Classes", columns,
    sortRows(columns, visibleClasses(), STATE.classOrder), STATE.classOrder,
    (classOrder) => setState({ classOrder })));
}

// Classes with objects or detections.
function visibleClasses() {
  const totals = DATA.models.map((_, i) => confusionOf(i));
  return DATA.classes.map((_, place) => place).filter((place) => totals.some((rows) =>
    sum(rows[place]) + sum(rows.map((row) => row[place])) > 0));
}

// Confusions of all images together: counts by class of the object and of the detection.
const CONFUSIONS = new Map();
function confusionOf(model) {
  const key = `${model} ${STATE.kind}`;
  if (!CONFUSIONS.has(key)) {
    const size = DATA.classes.length + 1;
    const rows = Array.from({ length: size }, () => new Array(size).fill(0));
    for (const flat of DATA.models[model].kinds[STATE.kind].images.confusions) {
      for (let i = 0; i < flat.length; i += 3) rows[flat[i]][flat[i + 1]] += flat[i + 2];
    }
    CONFUSIONS.set(key, rows);
  }
  return CONFUSIONS.get(key);
}

const ofClass = () => (STATE.class === null ? "all classes" : className(STATE.class));
const placeOrAll = () => (STATE.class === null ? 0 : STATE.class + 1);
const UNIT = [0, 1];

function drawCurves() {
  const lines = DATA.models.flatMap((model, i) => {
    const { names, lines: all } = model.kinds[STATE.kind].curves;
    const own = all[placeOrAll()] ?? [];
    return own.map((precision, j) => ({
      name: isCompared ? `${letter(i)}, ${names[j]}` : names[j],
      points: precision.map((value, k) => [k / 100, value]),
      color: isCompared ? i + 1 : j + 1,
      dashed: isCompared ? j > 0 : j === own.length - 1,
    })).filter((_, j) => !isCompared || j === 0 || j === own.length - 1);
  });
  lineChart(byId("recall-chart"), { title: `Precision by recall, ${ofClass()}`, lines,
    x: { title: "recall", domain: UNIT }, y: { title: "precision", domain: UNIT },
    hidden: STATE.hidden });
  const byThreshold = DATA.models.flatMap((model, i) => {
    const [precision, recall] = model.kinds[STATE.kind].scores[placeOrAll()].by_threshold;
    const f1 = precision.map((p, k) => (isNumber(p) && isNumber(recall[k]) && p + recall[k] > 0
      ? 2 * p * recall[k] / (p + recall[k]) : null));
    return [["precision", precision], ["recall", recall], ["F1", f1]]
      .map(([name, values], j) => ({
        name: isCompared ? `${letter(i)}, ${name}` : name,
        points: values.map((value, k) => [k / 100, value]),
        color: isCompared ? i + 1 : j + 1,
        dashed: isCompared && j < 2,
      })).filter((_, j) => !isCompared || j === 2);
  });
  const marks = DATA.models.map((model, i) => ({ x: model.score, name: `score ${model.score}`,
    color: isCompared ? i + 1 : 0 }));
  lineChart(byId("threshold-chart"), { title: `By score threshold, ${ofClass()}`,
    lines: byThreshold, x: { title: "score", domain: UNIT },
    y: { title: isCompared ? "F1" : "share", domain: UNIT }, marks, hidden: STATE.hidden });
}

function drawErrors() {
  const own = DATA.models.map((model) => {
    const { all, shown, costs, total_costs: total } = model.kinds[STATE.kind].errors;
    const place = STATE.class;
    const count = (rows, j) => (place === null ? sum(rows.map((row) => row[j])) : rows[place][j]);
    return ERRORS.map((_, j) => ({ all: count(all, j), shown: count(shown, j),
      cost: place === null ? total[j] : costs[place][j] }));
  });
  const largest = Math.max(0.01, ...own.flat().map((error) => error.cost ?? 0));
  const head = ["Error", ...letters("Costs in AP50"), ...letters("Above the score"),
    ...letters("Of all detections")];
  const rows = ERRORS.map(([name, text], j) => {
    const isOn = STATE.error === j;
    const button = element("button", { class: "link", "aria-pressed": String(isOn),
      "data-key": `error-${j}`, onclick: () => setState({ error: isOn ? null : j }) }, name);
    return element("tr", { class: isOn ? "chosen" : "" },
      element("th", { scope: "row" }, button, element("span", { class: "muted" }, ` ${text}`)),
      own.map((errors) => element("td", {},
        bar(errors[j].cost, { width: Math.max(0, errors[j].cost ?? 0) / largest }),
        fixed(errors[j].cost))),
      own.map((errors) => element("td", {}, errors[j].shown)),
      own.map((errors) => element("td", {}, errors[j].all)));
  });
  byId("error-table").replaceChildren(element("table", {},
    element("caption", {}, `Errors, ${ofClass()}`),
    element("thead", {}, element("tr", {}, head.map((text, i) =>
      element("th", { scope: "col", class: i ? "" : "text" }, text)))),
    element("tbody", {}, rows)));
}

function drawConfusion() {
  const model = STATE.model;
  byId("confusion-text").textContent = `Rows are objects, columns are what was detected on them, `
    + `at an IoU of 0.5 and a score of at least ${DATA.models[model].score}. A click on a number `
    + `leaves the images that it counts.`;
  byId("confusion-models").replaceChildren(isCompared ? element("div", { class: "segments" },
    DATA.models.map((_, i) => element("button", { "aria-pressed": String(i === model),
      "data-key": `confusion-${i}`, onclick: () => setState({ model: i, cell: null }) }, letter(i)))) : "");
  const counts = confusionOf(model);
  const background = DATA.classes.length;
  const places = [...visibleClasses(), background];
  const button = (row, column, key, text) => {
    const isOn = STATE.cell !== null && STATE.cell[0] === row && STATE.cell[1] === column;
    const says = `${counts[row][column]} times ${cellText(row, column)}`;
    return element("button", { title: says, "aria-label": says, "aria-pressed": String(isOn),
      "data-key": `${key}-${row}-${column}`,
      onclick: () => setState({ cell: isOn ? null : [row, column] }) }, text);
  };
  const cell = (row, column) => {
    const count = counts[row][column];
    if (!count) return element("td");
    const style = `--share:${(100 * count / sum(counts[row])).toFixed(0)}%`;
    return element("td", { class: row === column ? "right" : "wrong", style },
      button(row, column, "cell", count));
  };
  const wrong = places.flatMap((row) => places.map((column) => [row, column]))
    .filter(([row, column]) => row !== column && row !== background && column !== background
      && counts[row][column])
    .sort((one, other) => counts[other[0]][other[1]] - counts[one[0]][one[1]])
    .slice(0, MOST_CONFUSED);
  byId("most-confused").replaceChildren(...(wrong.length ? ["Most often: ",
    wrong.map(([row, column]) => button(row, column, "confused",
      `${className(row)} as ${className(column)}, ${counts[row][column]}`))].flat() : []));
  byId("matrix").replaceChildren(element("table", { class: "matrix" },
    element("thead", {}, element("tr", {}, element("th", {}, "object \\ detected"),
      places.map((place) => element("th", { scope: "col" },
        element("span", {}, place === background ? "not detected" : className(place)))))),
    element("tbody", {}, places.map((row) => element("tr", {},
      element("th", { scope: "row" }, row === background ? "no object" : className(row)),
      places.map((column) => cell(row, column)))))));
}

function drawGroups() {
  const titles = { size: "By size of the object", number: "By number of objects in the image",
    overlap: "By overlap of the object's box with another" };
  const tables = Object.entries(titles).map(([key, title]) => {
    const groups = DATA.models.map((model) => model.kinds[STATE.kind].groups[key]);
    const withAp = groups[0].some((group) => group.ap !== null);
    const head = ["", "Images", "Objects", ...(withAp ? [...letters("AP"), ...letters("AP50")] : []),
      ...letters("Recall")];
    const rows = groups[0].map((group, i) => {
      const own = groups.map((all) => all[i]);
      const best = withAp ? own[0].ap?.[0] : own[0].recall;
      const cells = [group.images, group.objects];
      if (withAp) cells.push(...own.map((o) => fixed(o.ap?.[0])), ...own.map((o) => fixed(o.ap?.[1])));
      cells.push(...own.map((o) => fixed(o.recall)));
      return element("tr", {}, element("th", { scope: "row" }, group.name),
        cells.map((text, j) => element("td", {}, j === 2 && !isCompared ? bar(best) : null, text)));
    });
    return element("div", { class: "scroll" }, element("table", {},
      element("caption", {}, title),
      element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, rows)));
  });
  byId("group-tables").className = isCompared ? "charts wide" : "charts";
  byId("group-tables").replaceChildren(...tables);
}

function drawCalibration() {
  const own = DATA.models.map((model) => model.kinds[STATE.kind].scores[placeOrAll()]);
  const lines = own.map((bins, i) => {
    const most = Math.max(1, ...bins.counts);
    return { name: isCompared ? letter(i) : "detections in ten bins",
      points: bins.scores.map((score, j) =>
        [score, bins.precision[j], 3 + 7 * Math.sqrt(bins.counts[j] / most)])
        .filter((point) => isNumber(point[0])),
      color: i + 1, faint: true };
  });
  lineChart(byId("calibration-chart"), { title: `How often a score is right, ${ofClass()}`, lines,
    x: { title: "score", domain: UNIT }, y: { title: "share that is right", domain: UNIT },
    diagonal: true, hidden: STATE.hidden });
  byId("calibration-text").replaceChildren(
    element("p", {}, "On the dashed line a score is the probability of being right, at an IoU of "
      + "0.5. Below it the model is too sure of itself, above it too unsure. The larger a disc, "
      + "the more detections it stands for."),
    own.map((bins, i) => element("p", {}, isCompared ? element("b", {}, `${letter(i)} `) : null,
      "Expected calibration error ", element("b", {}, fixed(bins.expected_error)),
      `, over ${plural(sum(bins.counts), "detection")}.`)).reduce((list, p) => {
      list.append(p);
      return list;
    }, element("div")));
}

function drawTraining() {
  const models = DATA.models.map((model) => model.training);
  const series = (phase, wanted) => models.flatMap((own, i) => {
    const part = own[phase];
    if (!part) return [];
    return Object.entries(part.series).filter(([name]) => wanted(name)).map(([name, values], j) => ({
      name: `${isCompared ? `${letter(i)}, ` : ""}${
        phase === "eval" && isLoss(name) ? `validation ${name}` : name}`,
      points: part.steps.map((step, k) => [step, values[k]]),
      color: isCompared ? i + 1 : 1 + j % 6,
      dashed: isCompared ? j > 0 || (phase === "eval" && isLoss(name)) : j >= 6 }));
  });
  const isLoss = (name) => name.endsWith("loss");
  const isMain = (name) => !isCompared || ["mask/AP", "box/AP", "total_loss"].includes(name);
  const wantedLoss = (name) => isLoss(name) && isMain(name);
  const charts = [
    ["Average precision on the validation data",
      series("eval", (name) => !isLoss(name) && isMain(name)), { title: "AP", domain: UNIT }],
    ["Losses", [...series("train", wantedLoss), ...series("eval", wantedLoss)],
      { title: "loss", log: true }],
    ["Learning rate", series("train", (name) => name === "learning_rate"),
      { title: "learning rate" }],
  ].filter(([, lines]) => lines.some((line) => line.points.length));
  byId("training").hidden = !charts.length;
  const lastStep = Math.max(1, ...charts.flatMap(([, lines]) => rangeOf(lines, 0, false)));
  const hosts = charts.map(() => element("div"));
  byId("training-charts").replaceChildren(...hosts);
  charts.forEach(([title, lines, y], i) => {
    const domain = y.domain ?? rangeOf(lines, 1, y.log);
    if (!y.log && !y.domain) domain[0] = Math.min(0, domain[0]);
    lineChart(hosts[i], { title, lines, x: { title: "step", domain: [0, lastStep] },
      y: { ...y, domain }, hidden: STATE.hidden });
  });
}

function drawDefinitions() {
  const scores = DATA.models.map((model, i) => `${letter(i)} ${model.score}`.trim()).join(", ");
  const entries = [
    ["AP", "COCO's average precision, the mean over IoU 0.50 to 0.95 and over classes; AP50 and "
      + "AP75 at one IoU; s, m and l of small, medium and large objects; AR100 the recall of up to "
      + "100 detections of a class in an image. Crowds are ignored. Seen are the classes whose masks "
      + "trained the mask head (task.allowed_mask_class_ids), unseen the others."],
    [`Score ${scores}`, "Counts of right, wrong and missed are of detections with at least this "
      + "score. If it was not given it is that of the highest F1 over all classes."],
    ["Errors", "The kinds, their IoU thresholds and what they cost are those of TIDE "
      + "(arXiv 2008.08115). Costs do not add up: errors hide each other."],
    ["Quality of an image", "The IoUs of all objects found, summed, by (found + wrong / 2 + "
      + "missed / 2): panoptic quality over all classes at once. 1 is perfect."],
    ["Confusion", "Objects that are found are on the diagonal. What is left over is paired across "
      + "classes where the IoU is at least 0.5, and what is left then goes to the last row and "
      + "column."],
    ["Overlap", "The largest IoU of an object's box with the box of another object of any class."],
    ["Calibration", "Expected calibration error (arXiv 1706.04599) over ten bins of the score; a "
      + "detection is right if it finds an object of its class at an IoU of 0.5."],
  ];
  byId("definition-list").replaceChildren(element("dl", {}, entries.map(([term, text]) =>
    [element("dt", {}, term), element("dd", {}, text)])));
}
