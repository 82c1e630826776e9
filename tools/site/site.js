/* What a page does: it copies, remembers what was read, asks before it answers, obeys keys. */

/** Return what is typed in a block, without prompts and output. */
function findTyped(block) {
  const typed = [];
  let goesOn = false; // an empty line ends a function only behind the function
  for (const line of block.textContent.split("\n")) {
    const [, prompt, text] = line.match(/^(>>>|\.\.\.|\$)(?: (.*))?$/) ?? [];
    goesOn = Boolean(prompt) && (prompt !== "..." || goesOn);
    if (goesOn) typed.push(text ?? "");
  }
  return typed.join("\n");
}

for (const block of document.querySelectorAll(".terminal pre:has(.gp)")) {
  const button = document.createElement("button");
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(findTyped(block));
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  block.closest(".terminal").append(button);
}

/* A question asks for a choice, or a guess, before it shows its answer. */
for (const question of document.querySelectorAll("details:has(> summary > b)")) {
  const form = document.createElement("form");
  const isYesOrNo = /^\s*(Yes|No)\b/.test(question.textContent.slice(
    question.querySelector("summary").textContent.length));
  form.innerHTML = isYesOrNo
    ? '<button value="Yes">Yes</button><button value="No">No</button>'
    : '<input aria-label="Your guess" placeholder="Your guess"><button>Show the answer</button>';
  form.addEventListener("submit", event => {
    event.preventDefault();
    const said = document.createElement("p");
    said.textContent = `You said: ${event.submitter.value || form.querySelector("input").value}`;
    question.querySelector("summary").after(said);
    question.open = true;
  });
  question.after(form);
}
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(details => { details.open = true; });
});

/* A lesson has been read when its end has been seen. Its links have a tick then. */
const plain = path => path.replace(/(README|index)\.html$/, "");
const read = new Set(JSON.parse(localStorage.getItem("read") ?? "[]"));
function tick() {
  for (const link of document.querySelectorAll(".sidebar-tree a, td:first-child a")) {
    link.classList.toggle("read", read.has(plain(link.pathname)));
  }
}
new IntersectionObserver(([end]) => {
  if (end.isIntersecting && /chapters\/\d/.test(location.pathname)) {
    read.add(plain(location.pathname));
    localStorage.setItem("read", JSON.stringify([...read]));
  }
  tick();
}).observe(document.querySelector("footer"));

addEventListener("keydown", event => {
  const isTyped = event.target.closest("input, textarea, select, [contenteditable]");
  if (isTyped || event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
  const way = { ArrowLeft: ".prev-page", ArrowRight: ".next-page" }[event.key];
  if (way) document.querySelector(way)?.click();
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("#__navigation").checked = true; // the list of pages, on a phone
    document.querySelector(".sidebar-search").focus();
  }
});
