// The tabs Rows, Compare, Map, Data and About, and the explanations behind ⓘ.
import { byId } from "./text.js";
import { saveLocation, view } from "./view.js";

const tabs = () => [...byId("tabs").children].filter((tab) => !tab.hidden);

export function showTab(name) {
  const visibleTabs = tabs();
  const current = visibleTabs.find((tab) => tab.id === `tab-${name}`) ?? visibleTabs[0];
  view.tab = current.id.slice("tab-".length);
  for (const tab of byId("tabs").children) {
    const selected = tab === current;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !selected;
  }
  saveLocation();
  document.dispatchEvent(new Event("tabchange"));
}

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

function onTabKey(event) {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const all = tabs();
  const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
  showTab(next.id.slice("tab-".length));
  next.focus();
}

export function wireTabs() {
  byId("tabs").addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) showTab(tab.id.slice("tab-".length));
  });
  byId("tabs").addEventListener("keydown", onTabKey);
  for (const button of document.querySelectorAll(".info")) {
    const hint = byId(button.getAttribute("aria-controls"));
    button.addEventListener("click", () => {
      hint.hidden = !hint.hidden;
      button.setAttribute("aria-expanded", !hint.hidden);
    });
  }
}
