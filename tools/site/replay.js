/* Plays recordings: a figure.replay has its frames as JSON, which replay.py has made. */
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const SHOWN = 5; // lines
const PATIENCE = 2500; // milliseconds that a note is read

for (const figure of document.querySelectorAll(".replay")) {
  const frames = JSON.parse(figure.querySelector("script").textContent);
  const [play] = figure.querySelectorAll("button");
  const slider = figure.querySelector("input");
  const items = frames.flatMap(frame => Object.values(frame.boxes).flat());
  const calls = [...new Set(items.map(([id]) => id))];
  let timer = 0;

  function fill(box, frame) {
    const items = frame?.boxes[box.dataset.box] ?? [];
    box.replaceChildren(...items.map(([id, text]) => {
      const item = document.createElement("li");
      item.textContent = text;
      item.style.setProperty("--hue", `${(210 + 97 * calls.indexOf(id)) % 360}deg`);
      item.dataset.call = id;
      item.dataset.place = `${id} ${box.dataset.box} ${text}`;
      return item;
    }));
  }

  function show(step) {
    const old = [...figure.querySelectorAll("li")];
    const places = new Set(old.map(item => item.dataset.place));
    const from = new Map(old.map(item => [item.dataset.call, item.getBoundingClientRect()]));
    for (const lane of figure.querySelectorAll(".lane")) {
      const known = frames.slice(0, step + 1).filter(frame => frame.name === lane.dataset.name);
      lane.querySelectorAll("ul").forEach(box => fill(box, known.at(-1)));
      const kill = lane.querySelector(".kill");
      kill.textContent = known.at(-1)?.kill;
      kill.classList.toggle("safe", kill.textContent.endsWith("nothing."));
    }
    for (const item of figure.querySelectorAll("li")) {
      const start = from.get(item.dataset.call);
      if (start && !calm.matches && !places.has(item.dataset.place)) {
        const end = item.getBoundingClientRect();
        const shift = `translate(${start.x - end.x}px, ${start.y - end.y}px)`;
        item.animate([{ transform: shift }, {}], { duration: 700, easing: "ease-in-out" });
      }
    }
    const frame = frames[step];
    figure.querySelector("[role=status]").textContent = frame.note;
    const lines = frames.slice(Math.max(0, step + 1 - SHOWN), step + 1).map(({ line }) => line);
    figure.querySelector("pre").textContent = lines.join("\n");
    slider.value = step;
    slider.ariaValueText = `${step + 1} of ${frames.length}`;
  }

  function stop() {
    clearTimeout(timer);
    timer = 0;
    play.textContent = "Play";
  }

  function wait() {
    const step = Number(slider.value);
    if (step + 1 === frames.length) return stop();
    const pause = 1000 * (frames[step + 1].t - frames[step].t);
    timer = setTimeout(() => { show(step + 1); wait(); }, PATIENCE + pause);
  }

  function go(by) {
    stop();
    show(Math.min(Math.max(Number(slider.value) + by, 0), frames.length - 1));
  }

  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) + 1 === frames.length) show(0);
    play.textContent = "Pause";
    wait();
  });
  figure.querySelectorAll("[value]:not(input)").forEach(button =>
    button.addEventListener("click", () => go(Number(button.value))));
  slider.addEventListener("input", () => go(0));
  figure.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault(); // and page.js turns no page
    go(by);
  });
  show(0);
}
