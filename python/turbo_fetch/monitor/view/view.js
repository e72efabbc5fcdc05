import { address, ask, asked, by, bytes, counted, details, element, line, link, number, root, themed, values } from "/parts.js";

let dataset = { outcomes: {}, rows: 0, shards: 0, more_sizes: [] };
let known = "";
// What is on the page: its rows, and where the next page begins.
let rows = [];
let next = null;
let asking = 0;

const image = (row, how) => {
  const [shard, index] = row.at.split(":");
  const made = element("img");
  made.alt = row.caption ?? "";
  made.src = `/picture/${shard}/${index}${how}`;
  return made;
};

const card = (row, index) => {
  const made = element("button", "row");
  made.type = "button";
  made.append(row.outcome === "success" ? image(row, "?small") : element("span", "none", row.outcome));
  made.append(element("span", "cut", row.caption || row.detail || row.error_message || row.url || "–"));
  const size = row.original_width ? `${row.original_width} × ${row.original_height}` : (row.url ?? "");
  made.append(element("span", "cut note", `${row.key} · ${size}`));
  made.addEventListener("click", () => show(index));
  return made;
};

// Failures have no image to look at: what matters is the reason.
const failures = () => {
  const table = element("table", "failures");
  const names = ["outcome", "reason", "attempts", "URL", "row"];
  const body = rows.map((row, index) => {
    const open = element("button", "", row.key);
    open.type = "button";
    open.addEventListener("click", () => show(index));
    return line([element("b", "none-text", row.outcome), row.detail || row.error_message || "–",
      String(row.attempts ?? "–"), link(row.url), open]);
  });
  table.append(element("thead"), element("tbody"));
  table.firstChild.append(line(names));
  table.lastChild.append(...body);
  // On a phone, each cell is a line with its name before it.
  for (const made of body) [...made.cells].forEach((cell, index) => { cell.dataset.name = names[index]; });
  return table;
};

const show = details((index) => {
  const row = rows[index];
  const sizes = ["", ...dataset.more_sizes.map((size) => `?size=${size}`)];
  by("picture").replaceChildren(...(row.outcome === "success" ? sizes.map((size) => image(row, size)) : []));
  by("values").replaceChildren(...Object.entries(row).filter(([key, value]) => key !== "at" && value !== null)
    .map(([key, value]) => line([key, values(key, value)])));
}, () => rows.length, () => next, () => go({ from: next, sample: "" }));

const go = async (changes) => {
  address(changes);
  await load();
};

const query = () => {
  const all = asked();
  return new URLSearchParams(["outcome", "text", "min_side"].map((name) => [name, all.get(name) ?? ""]));
};

const matches = () => {
  const outcome = query().get("outcome");
  if (query().get("text") || query().get("min_side")) return null;
  if (!outcome) return dataset.rows;
  return outcome === "failed" ? dataset.rows - (dataset.outcomes.success ?? 0) : dataset.outcomes[outcome] ?? 0;
};

const tell = (total, whole) => {
  const which = asked().get("sample") ? "sampled of" : "of";
  by("status").textContent = `${number.format(rows.length)} ${which} ${number.format(total)}${whole ? "" : " or more"} matching rows`;
};

// The whole dataset has to be read for it, so it goes on while the rows are looked at.
const count = async (mine) => {
  let total = 0;
  let from = 0;
  while (from !== null) {
    const found = await ask(`/api/count?${query()}&from=${from}`);
    if (mine !== asking) return;
    total += found.rows;
    from = found.next;
    tell(total, from === null);
  }
};

const draw = () => {
  const isOfFailures = rows.length > 0 && rows.every((row) => row.outcome !== "success") && asked().get("outcome");
  by("grid").className = isOfFailures ? "table" : asked().get("density") ?? "";
  by("grid").replaceChildren(...(isOfFailures ? [failures()] : rows.map(card)));
  by("empty").hidden = rows.length > 0;
  by("empty").textContent = dataset.shards
    ? "No row matches. Choose another outcome, or clear the text and the least side."
    : "No shard is finished yet. Rows appear here as soon as one is.";
  by("next").disabled = !next;
};

const load = async () => {
  const mine = ++asking;
  const all = asked();
  for (const name of ["outcome", "text", "min_side", "density"]) by("filter").elements[name].value = all.get(name) ?? "";
  by("status").textContent = "searching …";
  const wanted = query();
  const sample = all.get("sample");
  if (sample) wanted.set("seed", sample);
  else if (all.get("from")) wanted.set("from", all.get("from"));
  try {
    const page = await ask(`/api/${sample ? "sample" : "rows"}?${wanted}`);
    if (mine !== asking) return;
    rows = page.rows;
    next = page.next ?? null;
    draw();
    scrollTo(0, 0);
    const total = matches();
    total === null ? await count(mine) : tell(total, true);
  } catch (error) {
    if (mine === asking) by("status").textContent = error.message;
  }
};

const describe = async () => {
  const found = await ask("/api/dataset");
  dataset = found;
  by("name").textContent = found.path.split("/").filter(Boolean).pop() ?? found.path;
  by("facts").textContent = `${found.path} · ${found.format ?? "no shard yet"} · ` +
    `${counted(found.rows, "row")} in ${counted(found.shards, "shard")}`;
  const state = JSON.stringify(found);
  if (state === known) return;
  const first = known === "";
  known = state;
  const choices = [["", "all outcomes"], ["failed", "all failures"],
    ...Object.entries(found.outcomes).map(([name, count]) => [name, `${name} (${number.format(count)})`])];
  by("filter").elements.outcome.replaceChildren(...choices.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
  by("filter").elements.outcome.value = asked().get("outcome") ?? "";
  if (first || !rows.length) await load();
};

const follow = async () => {
  const live = await ask("/api/live");
  const last = live.progress.at(-1);
  by("live").hidden = !live.running || !last;
  if (live.running && last) {
    const share = last.rows_total ? last.rows_done / last.rows_total : 0;
    by("live-state").textContent = "A run is in progress";
    const failed = Object.entries(last.outcomes).filter(([name]) => name !== "success")
      .map(([name, count]) => `${name} ${number.format(count)}`).join(", ");
    by("live-facts").textContent = `${number.format(last.rows_done)} of ` +
      `${last.rows_total ? number.format(last.rows_total) : "?"} rows · ${number.format(Math.round(last.rows_per_s))} rows/s · ` +
      `${bytes(last.bytes_per_s)}/s · ${number.format(last.in_flight)} in flight · ${bytes(last.memory_bytes)}` +
      (failed ? ` · ${failed}` : "");
    by("live-bar").value = share;
    const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    Plotly.react("live-plot", [{
      x: live.progress.map((line) => line.elapsed_s), y: live.progress.map((line) => line.rows_per_s),
      type: "scatter", mode: "lines", line: { color: colour("--good"), width: 2 }, hovertemplate: "%{y:,.0f} rows/s<extra></extra>",
    }], {
      margin: { l: 48, r: 12, t: 8, b: 28 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), size: 11 },
      xaxis: { gridcolor: colour("--line"), title: { text: "" }, ticksuffix: " s" },
      yaxis: { gridcolor: colour("--line"), rangemode: "tozero", title: { text: "rows/s" } },
    }, { displayModeBar: false, responsive: true });
    await describe();
  }
  setTimeout(() => follow().catch(() => setTimeout(follow, 5000)), live.running ? 1000 : 3000);
};

themed();
const search = () => go({ ...Object.fromEntries(new FormData(by("filter"))), from: "", sample: "" });
by("filter").addEventListener("submit", (event) => { event.preventDefault(); search(); });
by("filter").elements.outcome.addEventListener("change", search);
by("filter").elements.density.addEventListener("change", () => go({ density: by("filter").elements.density.value }));
by("sample").addEventListener("click", () => go({ from: "", sample: String(Number(asked().get("sample") ?? 0) + 1) }));
by("first").addEventListener("click", () => go({ from: "", sample: "" }));
by("next").addEventListener("click", () => go({ from: next, sample: "" }));
addEventListener("popstate", load);

// Arrow keys go from row to row, on the page as in the details.
addEventListener("keydown", (event) => {
  if (by("detail").open) return;
  const cards = [...document.querySelectorAll(".row")];
  const at = cards.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = cards.filter((each) => each.offsetTop === cards[0].offsetTop).length;
  const wanted = cards[at + ({ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key] ?? NaN)];
  if (wanted) { event.preventDefault(); wanted.focus(); }
});
describe().then(follow).catch((error) => { by("status").textContent = error.message; });
