/* Each page that a search finds is followed by its sections that have all the words. */
const summarize = Search.makeSearchSummary;
const stemmer = new Stemmer();
const stemsOf = text => new Set(splitQuery(text.toLowerCase()).map(word => stemmer.stemWord(word)));

Search.makeSearchSummary = (html, words, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  const list = document.createElement("ul");
  for (const section of page.querySelectorAll("article section section")) {
    const stems = stemsOf(section.textContent);
    if (!section.querySelector("section") && [...words].every(word => stems.has(word))) {
      const link = document.createElement("a");
      link.href = `${page.querySelector("meta[name=page]").content}#${section.id}`;
      link.textContent = section.querySelector("h2, h3").textContent.replace(/[¶#]$/, "");
      const item = document.createElement("li");
      item.append(link, summarize(html, words, `#${section.id}`));
      list.append(item);
    }
  }
  return list.firstChild ? list : summarize(html, words, anchor);
};
