import { address, ask, asked, by, counted, details, element, line, number, themed, values } from "/parts.js";

const places = ["/picture", "/other"];
let names = ["left", "right"];
// What is on the page: its pairs, and where the next page begins.
let pairs = [];
let next = null;
let asking = 0;

const image = (row, side, small) => {
  const [shard, index] = row.at.split(":");
  const made = element("img");
  made.alt = row.caption ?? "";
  made.src = `${places[side]}/${shard}/${index}${small ? "?small" : ""}`;
  return made;
};

const picture = (row, side, small) => {
  if (!row) return element("span", "none absent", `not in ${names[side]}`);
  return row.status === "success" && row.width ? image(row, side, small) : element("span", "none", row.outcome);
};

const size = (row) => (row?.width ? `${row.width} × ${row.height}` : row?.outcome ?? "–");

const card = (pair, index) => {
  const made = element("button", "row");
  const sides = element("span", "sides");
  made.type = "button";
  sides.append(...pair.map((row, side) => picture(row, side, true)));
  const sizes = element("span", "sides");
  sizes.append(...pair.map((row) => element("span", "cut note", size(row))));
  const one = pair[0] ?? pair[1];
  made.append(sides, sizes, element("span", "cut", one.caption || one.url || one.key));
  if (pair[0] && pair[1] && size(pair[0]) !== size(pair[1])) sizes.classList.add("differs");
  made.addEventListener("click", () => show(index));
  return made;
};

const show = details((index) => {
  const pair = pairs[index];
  by("picture").replaceChildren(...pair.map((row, side) => picture(row, side, false)));
  const keys = [...new Set(pair.flatMap((row) => Object.keys(row ?? {})))].filter((key) => key !== "at")
    .filter((key) => pair.some((row) => row && row[key] !== null && row[key] !== undefined));
  by("values").replaceChildren(line(["", ...names]), ...keys.map((key) => {
    const cells = pair.map((row) => (row?.[key] === null || row?.[key] === undefined ? "–" : values(key, row[key])));
    const made = line([key, ...cells]);
    if (pair[0] && pair[1] && JSON.stringify(pair[0][key]) !== JSON.stringify(pair[1][key])) made.className = "differs";
    return made;
  }));
}, () => pairs.length, () => next !== null, () => go({ from: String(next) }));

const go = async (changes) => {
  address(changes);
  await load();
};

const describe = (found) => {
  const paths = found.datasets.map((dataset) => dataset.path);
  const last = paths.map((path) => path.split("/").filter(Boolean).pop() ?? path);
  names = last[0] === last[1] ? paths : last;
  by("name").textContent = `${names[0]} beside ${names[1]}`;
  ["left-facts", "right-facts"].forEach((id, side) => {
    const dataset = found.datasets[side];
    by(id).textContent = `${dataset.path} · ${dataset.format ?? "no shard yet"} · ${counted(dataset.rows, "row")}`;
  });
  const counts = found.counts ?? {};
  const words = { all: "all rows", outcome: "outcome differs", size: "size differs", left: `only in ${names[0]}`, right: `only in ${names[1]}` };
  by("filter").elements.show.replaceChildren(...Object.entries(words).map(([value, text]) => {
    const option = element("option", "", `${text} (${number.format(counts[value] ?? 0)})`);
    option.value = value === "all" ? "" : value;
    return option;
  }));
  by("changes").hidden = !found.changes?.length;
  by("changes").replaceChildren(...(found.changes ?? []).map(([before, after, count]) =>
    element("span", "change", `${before} → ${after}: ${number.format(count)}`)));
  return counts;
};

const load = async () => {
  const mine = ++asking;
  const all = asked();
  by("status").textContent = "comparing …";
  const query = new URLSearchParams(["by", "show"].map((name) => [name, all.get(name) ?? ""]));
  try {
    const found = await ask(`/api/comparison?${query}`);
    const page = await ask(`/api/pairs?${query}&from=${all.get("from") ?? ""}`);
    if (mine !== asking) return;
    const counts = describe(found);
    for (const name of ["by", "show"]) by("filter").elements[name].value = all.get(name) ?? "";
    ({ pairs, next } = page);
    by("grid").replaceChildren(...pairs.map(card));
    by("next").disabled = next === null;
    by("empty").hidden = pairs.length > 0;
    by("empty").textContent = found.counts ? "There is no such row." : "One of the datasets has no finished shard yet.";
    by("status").textContent = `${number.format(pairs.length)} of ${number.format(counts[all.get("show") || "all"] ?? 0)} rows`;
    scrollTo(0, 0);
  } catch (error) {
    if (mine === asking) by("status").textContent = error.message;
  }
};

themed();
for (const name of ["by", "show"]) {
  by("filter").elements[name].addEventListener("change", () => go({ [name]: by("filter").elements[name].value, from: "" }));
}
by("filter").addEventListener("submit", (event) => event.preventDefault());
by("first").addEventListener("click", () => go({ from: "" }));
by("next").addEventListener("click", () => go({ from: String(next) }));
addEventListener("popstate", load);
load();
