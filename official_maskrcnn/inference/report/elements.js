// Elements and numbers. Texts of the data become text nodes and attributes, never HTML.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const element = (tag, attributes = {}, ...children) =>
  furnish(document.createElement(tag), attributes, children);

const shape = (tag, attributes = {}, ...children) =>
  furnish(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);

const byId = (id) => document.getElementById(id);

const isNumber = (value) => typeof value === "number";

const fixed = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : "–");

function signed(value, digits = 3) {
  if (!isNumber(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
}

const difference = (a, b) => (isNumber(a) && isNumber(b) ? b - a : null);

const plural = (count, noun, many = `${noun}s`) => `${count} ${count === 1 ? noun : many}`;

const sum = (values) => values.reduce((total, value) => total + value, 0);

// A number with its sign in the colour of what it means.
function change(value, digits = 3) {
  const kind = !isNumber(value) || Math.abs(value) < 0.5 * 10 ** -digits
    ? "even" : value > 0 ? "better" : "worse";
  return element("span", { class: `change ${kind}` }, signed(value, digits));
}

// A bar from 0 to 1, or from the middle to either side for a difference.
function bar(value, { from = 0, width = value, kind = "" } = {}) {
  if (!isNumber(value)) return element("span", { class: "bar" });
  const style = `--from:${(100 * from).toFixed(1)}%;--width:${(100 * width).toFixed(1)}%`;
  return element("span", { class: `bar ${kind}`, style, "aria-hidden": "true" });
}

function differenceBar(value, largest) {
  if (!isNumber(value)) return element("span", { class: "bar middle" });
  const width = largest > 0 ? Math.abs(value) / largest / 2 : 0;
  const kind = value < 0 ? "worse middle" : "better middle";
  return bar(value, { from: value < 0 ? 0.5 - width : 0.5, width, kind });
}

/**
 * A table that is sorted by a click on a heading.
 *
 * columns: [{ title, hint, text: is it one, value: (row) => what it is sorted by,
 *   cell: (row) => what it shows }]; what has no value comes last.
 */
function sortableTable(caption, columns, rows, order, onOrder) {
  const headings = columns.map((column, i) => {
    const direction = order.descending ? "descending" : "ascending";
    const attributes = {
      scope: "col",
      class: column.text ? "text" : "",
      title: column.hint,
      "aria-sort": order.column === i ? direction : null,
    };
    const descending = order.column === i ? !order.descending : !column.text;
    const onclick = () => onOrder({ column: i, descending });
    const button = element("button", { onclick, "data-key": `${caption}-${i}` }, column.title);
    return element("th", attributes, column.value ? button : column.title);
  });
  const cells = (row) => columns.map((column, i) =>
    element(i ? "td" : "th", { class: column.text ? "text" : "", scope: i ? null : "row" },
      column.cell(row)));
  return element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, headings)),
    element("tbody", {}, rows.map((row) => element("tr", {}, cells(row)))));
}

function sortRows(columns, rows, order) {
  const { value } = columns[order.column];
  const sign = order.descending ? -1 : 1;
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  };
  return rows.map((row) => [value(row) ?? null, row])
    .sort((one, other) => compare(one[0], other[0]))
    .map(([, row]) => row);
}
