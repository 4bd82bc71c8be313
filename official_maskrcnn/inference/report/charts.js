// Line charts as SVG, drawn as wide as there is room.

const MARGIN = { top: 10, right: 14, bottom: 38, left: 56 };

function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((value) => value >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i++) {
    ticks.push(i * step);
  }
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const digits = high / low > 100 ? [1] : high / low > 10 ? [1, 2, 5] : [1, 2, 3, 4, 5, 7];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const digit of digits) {
      const tick = digit * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

const tickText = (value) =>
  Math.abs(value) >= 10000 ? `${value / 1000}k` : String(Number(value.toPrecision(3)));

function axis({ domain, log }, start, end, count) {
  const [low, high] = domain;
  const at = log
    ? (value) => start + (end - start) * Math.log(value / low) / Math.log(high / low)
    : (value) => start + (end - start) * (value - low) / (high - low);
  return { at, ticks: log ? logTicks(low, high) : niceTicks(low, high, count) };
}

const usable = (config, value) => isNumber(value) && (!config.log || value > 0);

// The smallest range around the values of all lines.
function rangeOf(lines, place, log) {
  const values = lines.flatMap((line) => line.points.map((point) => point[place]))
    .filter((value) => usable({ log }, value));
  if (!values.length) return [0, 1];
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  return [low, high];
}

function linePath(line, x, y, yConfig) {
  let path = "", isDrawing = false;
  for (const [px, py] of line.points) {
    if (usable(yConfig, py)) {
      path += `${isDrawing ? "L" : "M"}${x.at(px).toFixed(1)} ${y.at(py).toFixed(1)}`;
    }
    isDrawing = usable(yConfig, py);
  }
  return path;
}

/**
 * lines: [{ name, points: [[x, y, size], ...], color: 1 to 6, dashed, faint }]; a point with a size, or
 * a single one, is a disc. x, y: { title, domain, log }. marks: [{ x, name }], vertical lines. hidden: set of names.
 */
function lineChart(host, { title, lines, x, y, marks = [], diagonal = false, hidden }) {
  const width = Math.max(260, Math.min(host.clientWidth || 480, 760));
  const height = Math.round(Math.min(340, Math.max(230, width * 0.6)));
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const xAxis = axis(x, MARGIN.left, right, width / 65);
  const yAxis = axis(y, bottom, MARGIN.top, height / 45);
  const shown = lines.filter((line) => !hidden.has(line.name));
  const cursor = shape("line", { class: "cursor", y1: MARGIN.top, y2: bottom, x1: -9, x2: -9 });
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    xAxis.ticks.map((tick) => [
      shape("line", { class: "grid", x1: xAxis.at(tick), x2: xAxis.at(tick), y1: MARGIN.top,
        y2: bottom }),
      shape("text", { class: "tick", x: xAxis.at(tick), y: bottom + 15, "text-anchor": "middle" },
        tickText(tick)),
    ]),
    yAxis.ticks.map((tick) => [
      shape("line", { class: "grid", x1: MARGIN.left, x2: right, y1: yAxis.at(tick),
        y2: yAxis.at(tick) }),
      shape("text", { class: "tick", x: MARGIN.left - 6, y: yAxis.at(tick) + 4,
        "text-anchor": "end" }, tickText(tick)),
    ]),
    shape("text", { class: "label", x: (MARGIN.left + right) / 2, y: height - 5,
      "text-anchor": "middle" }, x.title),
    shape("text", { class: "label", "text-anchor": "middle",
      transform: `translate(12 ${(MARGIN.top + bottom) / 2}) rotate(-90)` }, y.title),
    diagonal ? shape("line", { class: "diagonal", x1: xAxis.at(0), y1: yAxis.at(0),
      x2: xAxis.at(1), y2: yAxis.at(1) }) : null,
    marks.map((mark) => [
      shape("line", { class: `mark line${mark.color ?? 0}`, x1: xAxis.at(mark.x),
        x2: xAxis.at(mark.x), y1: MARGIN.top, y2: bottom }),
      shape("title", {}, mark.name),
    ]),
    shown.map((line) => [
      shape("path", { class: `line line${line.color} ${line.dashed ? "dashed" : ""} ${
        line.faint ? "faint" : ""}`,
        d: linePath(line, xAxis, yAxis, y) }),
      line.points.filter((point) => usable(y, point[1])).map((point, _, points) =>
        (isNumber(point[2]) || points.length === 1 ? shape("circle", {
          class: `disc line${line.color}`, cx: xAxis.at(point[0]), cy: yAxis.at(point[1]),
          r: point[2] ?? 4 }) : null)),
    ]),
    cursor);
  const readings = new Map();
  const legend = element("div", { class: "legend" }, lines.map((line) => {
    const reading = element("span", { class: "reading" });
    readings.set(line, reading);
    const swatch = shape("svg", { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" },
      shape("path", { class: `line line${line.color} ${line.dashed ? "dashed" : ""}`,
        d: "M1 5L21 5" }));
    const onclick = () => {
      if (!hidden.delete(line.name)) hidden.add(line.name);
      draw();
    };
    return element("button", { "aria-pressed": String(!hidden.has(line.name)), onclick,
      "data-key": `${title}-${line.name}` }, swatch, line.name, reading);
  }));

  function draw() {
    keepFocus(() => lineChart(host, { title, lines, x, y, marks, diagonal, hidden }));
  }

  function read(event) {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) * width / box.width;
    if (place < MARGIN.left - 4 || place > right + 4) return forget();
    let nearest = null;
    for (const line of shown) {
      const points = line.points.filter((point) => usable(y, point[1]));
      if (!points.length) continue;
      const distance = (point) => Math.abs(xAxis.at(point[0]) - place);
      const point = points.reduce((one, other) => (distance(other) < distance(one) ? other : one));
      readings.get(line).textContent = fixed(point[1]);
      if (nearest === null || distance(point) < Math.abs(xAxis.at(nearest) - place)) {
        nearest = point[0];
      }
    }
    if (nearest === null) return;
    cursor.setAttribute("x1", xAxis.at(nearest));
    cursor.setAttribute("x2", xAxis.at(nearest));
    heading.textContent = `${title} (${x.title} ${tickText(nearest)})`;
  }

  function forget() {
    for (const reading of readings.values()) reading.textContent = "";
    cursor.setAttribute("x1", -9);
    cursor.setAttribute("x2", -9);
    heading.textContent = title;
  }

  svg.addEventListener("pointermove", read);
  svg.addEventListener("pointerleave", forget);
  const heading = element("h3", {}, title);
  host.replaceChildren(heading, svg, legend);
}
