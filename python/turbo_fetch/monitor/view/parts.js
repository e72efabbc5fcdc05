// What the pages of the viewer share.

export const by = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat("en");
export const counted = (count, noun) => `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`;
export const root = document.documentElement;
const units = ["B", "kB", "MB", "GB", "TB"];

export const bytes = (count) => {
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
};

export const ask = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};

// Text only ever becomes text: nothing that a dataset says is parsed as HTML.
export const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const isWebLink = (text) => {
  try { return ["http:", "https:"].includes(new URL(text).protocol); } catch { return false; }
};

export const link = (text) => {
  if (!isWebLink(text)) return element("span", "", text ?? "–");
  const made = element("a", "", text);
  Object.assign(made, { href: text, target: "_blank", rel: "noopener noreferrer nofollow" });
  return made;
};

export const line = (cells) => {
  const made = element("tr");
  made.append(...cells.map((cell) => {
    const box = element("td");
    box.append(cell);
    return box;
  }));
  return made;
};

// What a row has under a name, as it is shown in a table.
export const values = (key, value) => (key === "url" || key === "final_url" ? link(value)
  : typeof value === "object" ? JSON.stringify(value) : String(value));

// The address says what is looked at, so that it can be kept, shared and gone back to.
export const asked = () => new URLSearchParams(location.search);

export const address = (changes) => {
  const wanted = asked();
  for (const [name, value] of Object.entries(changes)) value ? wanted.set(name, value) : wanted.delete(name);
  if (`?${wanted}` !== location.search) history.pushState(null, "", wanted.size ? `?${wanted}` : location.pathname);
};

export const themed = () => {
  root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  by("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
};

// The details of one row after the other, in a dialog. `fill` shows one, `count` says how many there are, `more` whether
// there is another page, to which `turn` goes.
export const details = (fill, count, more, turn) => {
  let shown = 0;
  const show = (index) => {
    shown = index;
    fill(index);
    by("place").textContent = `${number.format(index + 1)} of the ${number.format(count())} on this page`;
    by("before").disabled = index === 0;
    by("after").disabled = index + 1 === count() && !more();
    if (!by("detail").open) by("detail").showModal();
  };
  const step = async (on) => {
    const wanted = shown + on;
    if (wanted >= 0 && wanted < count()) show(wanted);
    else if (on > 0 && more()) {
      await turn();
      if (count()) show(0);
    }
  };
  by("before").addEventListener("click", () => step(-1));
  by("after").addEventListener("click", () => step(1));
  by("close").addEventListener("click", () => by("detail").close());
  addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (by("detail").open && event.key in steps) step(steps[event.key]);
  });
  return show;
};
