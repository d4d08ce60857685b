// Each peer: how far it is, what its circuit breaker says, how much goes to and from it.

import { act } from "./act";
import { attribute, byId, h, Keyed, show, text, type Row } from "./dom";
import { Foreseen } from "./foreseen";
import { History } from "./history";
import * as format from "./format";
import type { Peer, Sample } from "./model";
import { Sparkline } from "./sparkline";
import type { Store } from "./store";

const TROUBLE = { closed: 0, "half-open": 1, open: 2 } as const;

export function peers(store: Store): void {
  const list = new Keyed<Peer>(byId("peers-list"), (name) => card(store, name));
  store.watch(["peers", "samples", "log"], () => {
    const all = Object.entries(store.document!.peers);
    const trouble = ([, peer]: [string, Peer]) => TROUBLE[peer.breaker?.state ?? "closed"];
    list.render(all.sort((a, b) => trouble(b) - trouble(a) || a[0].localeCompare(b[0])));
    show(byId("peers-empty"), !all.length);
    text(byId("peers-count"), all.length ? format.count(all.length) : "");
  });
}

function card(store: Store, name: string): Row<Peer> {
  const badge = h("span", { class: "badge" });
  const trip = h("span", { class: "round-trip" });
  const address = h("span", { class: "muted address" });
  const rate = h("span", { class: "traffic" });
  const reason = h("p", { class: "error" });
  const reset = h("button", { type: "button", class: "quiet" }, "Close the breaker");
  const spark = new Sparkline();
  const foreseen = new Foreseen();
  const history = new History((record) => record.kind === "breaker" && record.peer === name);
  const element = h(
    "li",
    { class: "card peer", "data-peer": name },
    h("div", { class: "card-head" }, h("h3", {}, name), badge),
    h("div", { class: "peer-facts" }, trip, address),
    h("div", { class: "peer-traffic" }, spark.element, rate),
    foreseen.element,
    reason,
    reset,
    history.element,
  );
  const path = `/circuit-breaker/reset?peer=${encodeURIComponent(name)}`;
  reset.addEventListener("click", () => void act(path, `The breaker of ${name} is closed.`));
  let drawn: Sample[] | undefined;
  return {
    element,
    update(peer) {
      const state = peer.breaker?.state;
      attribute(element, "data-state", state ?? "none");
      text(badge, state === undefined ? "calls here" : `breaker ${state}`);
      attribute(badge, "data-state", state ?? "none");
      attribute(badge, "title", state === undefined ? "It has no address here, and so no circuit breaker" : "Circuit breaker");
      const far = peer.round_trip_milliseconds;
      text(trip, far === undefined ? "not reached" : format.milliseconds(far));
      text(address, peer.address ?? "");
      if (drawn !== store.samples) {
        drawn = store.samples;
        const values = drawn.map((sample) => sample.peers[name] ?? 0);
        const latest = values.at(-1) ?? 0;
        text(rate, format.rate(latest));
        spark.render(values, `Traffic with ${name} over the last ten minutes, now ${format.rate(latest)}`);
      }
      foreseen.render(peer.forecast);
      const breaker = peer.breaker;
      const trouble = breaker && (breaker.state !== "closed" || breaker.failures > 0);
      const retry = breaker?.retry_at ? ` Tried again at ${format.second(breaker.retry_at)}.` : "";
      text(reason, trouble ? `${format.plural(breaker.failures, "failure")} in a row: ${breaker.reason}.${retry}` : "");
      show(reason, !!trouble);
      show(reset, !!breaker && breaker.state !== "closed");
      history.render(store.log);
    },
  };
}
