// Keeps the page fresh: small changes straight from the event stream, everything else by fetching the page again and swapping the parts
// that differ. Without this file the page reads the same and reloads itself.

const live = document.getElementById("live");
const PAUSE = 1500;
let due = null;
let last = 0;

const time = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function say(kind, text) {
  live.className = `live ${kind}`;
  live.textContent = text;
}

// A new picture takes the old one's place only when it is decoded, so that nothing flickers.
function showPicture(image, address) {
  if (image.getAttribute("src") === address) return;
  const next = new Image();
  next.src = address;
  next.decode().then(() => image.setAttribute("src", address), () => {});
}

function parts(of) {
  return of.querySelectorAll("[data-part]");
}

// What the server said last of each part; the document itself differs from it by what the events changed.
const said = new Map();
for (const part of parts(document)) said.set(part.id, part.innerHTML);

function swap(part, fresh) {
  for (const image of fresh.querySelectorAll("img[data-picture]")) {
    const old = part.querySelector(`img[data-picture="${CSS.escape(image.dataset.picture)}"]`);
    if (!old) continue;
    const address = image.getAttribute("src");
    image.replaceWith(old);
    showPicture(old, address);
  }
  part.className = fresh.className;
  part.replaceChildren(...fresh.childNodes);
}

async function refresh() {
  due = null;
  last = Date.now();
  try {
    const response = await fetch("/", { headers: { accept: "text/html" }, signal: AbortSignal.timeout(10000) });
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of parts(fresh)) {
      const now = part.innerHTML;
      if (said.get(part.id) === now) continue;
      said.set(part.id, now);
      swap(document.getElementById(part.id), part);
    }
  } catch {
    // The event stream notices as well, and says so.
  }
}

function refreshSoon() {
  if (due === null) due = setTimeout(refresh, Math.max(100, last + PAUSE - Date.now()));
}

function showFrame({ device, label, confidence }) {
  const answer = document.querySelector(`[data-answer="${CSS.escape(device)}"]`);
  if (!answer || label === null || confidence === null) return;
  answer.querySelector("b").textContent = label;
  answer.querySelector(".sure").textContent = `${Math.round(confidence * 100)} %`;
  answer.querySelector("rect:last-child").setAttribute("width", (confidence * 100).toFixed(1));
}

function onEvent(event) {
  const news = JSON.parse(event.data);
  if (news.type === "frame") showFrame(news);
  refreshSoon();
}

const stream = new EventSource("/v1/events");
stream.onmessage = onEvent;
stream.addEventListener("missed", refreshSoon);
stream.onopen = () => {
  say("on", "live");
  refreshSoon();
};
stream.onerror = () => {
  if (!live.classList.contains("stale")) say("stale", `stale since ${time(new Date())}`);
};
// Ages such as "12 s ago" go on when nothing happens.
setInterval(refreshSoon, 10000);
