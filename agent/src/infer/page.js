// Asks for the latest input and shows it; texts are set as text, never as markup.
const at = (id) => document.getElementById(id);
let shown = -1;
async function update() {
  const latest = await (await fetch("/latest.json")).json();
  if (!latest || latest.number === shown) return;
  shown = latest.number;
  at("picture").hidden = !latest.picture;
  if (latest.picture) at("picture").src = "/latest.jpg?" + latest.number;
  const { top = [], millis, error } = latest.answer;
  at("label").textContent = error ? "no answer" : top[0].label;
  at("about").textContent = `${latest.name} · ${latest.model}` + (error ? ` · ${error}` : ` · ${millis.toFixed(1)} ms`);
  at("top").replaceChildren(...top.map(({ label, share }) => {
    const row = document.createElement("tr");
    const meter = Object.assign(document.createElement("meter"), { value: share });
    const cells = [label, meter, (100 * share).toFixed(1) + " %"].map((inside) => {
      const cell = document.createElement("td");
      cell.append(inside);
      return cell;
    });
    row.append(...cells);
    return row;
  }));
}
setInterval(() => update().catch(() => { at("about").textContent = "the agent does not answer"; }), 300);
