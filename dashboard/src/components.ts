// The parts of the node: what is wrong, since when, and what happened before.

import { attribute, byId, h, Keyed, show, text, type Row } from "./dom";
import * as format from "./format";
import { History } from "./history";
import type { Component } from "./model";
import type { Store } from "./store";

const SEVERITY = { unhealthy: 0, degraded: 1, healthy: 2 } as const;

export function components(store: Store): void {
  const list = new Keyed<Component>(byId("components-list"), (name) => row(store, name));
  store.watch(["components", "log"], () => {
    const all = Object.entries(store.document!.components);
    list.render(all.sort(([, a], [, b]) => SEVERITY[a.status] - SEVERITY[b.status]));
  });
}

function row(store: Store, name: string): Row<Component> {
  const badge = h("span", { class: "badge" });
  const since = h("span", { class: "muted since" });
  const reason = h("p", { class: "error" });
  const history = new History((record) => record.kind === "component" && record.detail?.["component"] === name);
  const element = h(
    "li",
    { class: "card component", "data-component": name },
    h("div", { class: "card-head" }, h("h3", {}, name), badge),
    since,
    reason,
    history.element,
  );
  return {
    element,
    update(component) {
      attribute(element, "data-status", component.status);
      text(badge, component.failed ? "failed" : component.recovering ? "recovering" : component.status);
      attribute(badge, "data-state", component.recovering && !component.failed ? "degraded" : component.status);
      const restarts = component.restarts ? `, ${format.plural(component.restarts, "restart")}` : "";
      text(since, `since ${format.second(component.since)}${restarts}`);
      text(reason, component.reason);
      show(reason, !!component.reason);
      history.render(store.log);
    },
  };
}
