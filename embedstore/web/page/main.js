/** Which page is shown, and what all pages have: the player, files that are dropped, faults. */
import { $, say } from "./dom.js";
import { Explorer } from "./explorer.js";
import { Studies } from "./studies.js";

const explorer = new Explorer();
const studies = new Studies(explorer, explorer.lists);

function route() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place on the page that is shown
  let [page, name] = location.hash.slice(2).split("?")[0].split("/");
  try {
    name &&= decodeURIComponent(name);
  } catch {
    name = undefined; // no address of ours
  }
  const isStudy = ["probes", "audits", "failures"].includes(page);
  $("map-page").hidden = $("lists").hidden = isStudy;
  $("study-page").hidden = !isStudy;
  document.body.dataset.page = isStudy ? "study" : "map";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${isStudy ? page : "map"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (isStudy) studies.show(page, name);
  else if (location.hash.includes("?")) explorer.recall();
  else explorer.remember();
}

function takeFiles() {
  const drop = $("drop");
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (isFile(event)) drop.hidden = !++depth;
  });
  addEventListener("dragleave", (event) => {
    if (isFile(event)) drop.hidden = !(depth = Math.max(0, depth - 1));
  });
  addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    drop.hidden = true;
    depth = 0;
    const [file] = event.dataTransfer.files;
    if (file) explorer.hear(file);
  });
  $("open-file").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) explorer.hear(file);
    $("file").value = "";
  });
}

addEventListener("hashchange", route);
takeFiles();
route();
explorer
  .start()
  .then(() => (document.body.dataset.ready = "yes"))
  .catch((error) => say(error.message, true));
