// The node in one glance: the overall state, in the tab too, and the throughput.

import { ask } from "./api";
import { Chart } from "./chart";
import { attribute, byId, h, text } from "./dom";
import * as format from "./format";
import type { NodeDocument } from "./model";
import type { Store } from "./store";
import type { Connection } from "./stream";
import { failed, toast } from "./toast";
import { countStale } from "./workloads";

const WORDS = { healthy: "All is well", behind: "Needs a look", degraded: "Degraded", unhealthy: "Unhealthy" } as const;

/** What a healthy node has not done, and will not do by itself. */
function concerns(node: NodeDocument): string {
  const stale = countStale(node);
  const parked = node.jobs?.counts.parked ?? 0;
  const parts = [stale ? `${format.plural(stale, "workload")} stale` : "", parked ? `${format.plural(parked, "job")} parked` : ""];
  return parts.filter(Boolean).join(", ");
}

const glance = (node: NodeDocument): keyof typeof WORDS =>
  node.health.status === "healthy" && concerns(node) ? "behind" : node.health.status;

export function overview(store: Store): void {
  const chart = new Chart(byId("chart"));
  // samples come every few seconds, and workloads grow old meanwhile
  store.watch(["node", "health", "components", "peers", "transfers", "workloads", "jobs", "samples"], () => {
    const document_ = store.document!;
    const { health, node } = document_;
    text(byId("name"), node.name);
    const status = glance(document_);
    text(byId("overall"), WORDS[status]);
    const doing = health.recovery_in_progress ? "A component is being restarted. " : "";
    text(byId("overall-reason"), sentence(health.reason) + doing + sentence(concerns(document_)));
    text(byId("uptime"), `Up for ${format.about(format.now() - node.started_at)}.`);
    attribute(byId("overall-box"), "data-status", status);
    facts(document_);
    text(byId("footer"), `dwcp ${node.program} · ${node.fingerprint}`);
  });
  store.watch(["transport"], () => {
    const { transport } = store.document!;
    text(byId("sent"), format.rate(transport.sent_bits_per_second));
    text(byId("received"), format.rate(transport.received_bits_per_second));
    const limit = transport.limit_bits_per_second;
    const source = transport.limited_by_operator ? "set by hand" : "as configured";
    text(byId("limit"), limit === undefined ? `No sending limit (${source})` : `At most ${format.rate(limit)} (${source})`);
  });
  store.watch(["samples"], () => {
    chart.render(store.samples);
    const peak = Math.max(0, ...store.samples.map((sample) => Math.max(sample.sent, sample.received)));
    attribute(byId("chart"), "aria-label", `Throughput over the last ten minutes, ${format.rate(peak)} at the most`);
  });
  limitDialog(store);
}

const sentence = (reason: string): string => reason && `${reason[0]!.toUpperCase()}${reason.slice(1)}${/[.!?]$/.test(reason) ? "" : "."} `;

function facts(node: NodeDocument): void {
  const components = Object.values(node.components);
  const peers = Object.values(node.peers);
  const running = Object.values(node.transfers).filter((transfer) => transfer.state === "running").length;
  const values: [string, string, string][] = [
    ["components", `${components.filter((c) => c.status === "healthy").length} of ${components.length}`, "healthy"],
    ["peers", `${peers.filter((p) => p.round_trip_milliseconds !== undefined).length} of ${peers.length}`, "reached"],
    ["transfers", format.count(running), "running"],
  ];
  const list = byId("facts");
  if (!list.children.length) {
    for (const [name] of values) {
      const link = h("a", { href: `#${name}` });
      list.append(h("div", {}, h("dt", {}, link), h("dd")));
    }
  }
  values.forEach(([name, value, what], index) => {
    const entry = list.children[index]!;
    text(entry.querySelector("a")!, `${name} ${what}`);
    text(entry.querySelector("dd")!, value);
  });
}

/** Title and icon of the tab: told at once, because a page in the background is not drawn. */
export function tab(store: Store, connection: Connection): void {
  const node = store.document;
  const status = connection.state === "live" && node ? glance(node) : "away";
  const name = node?.node.name ?? "DWCP";
  const running = node ? Object.values(node.transfers).filter((transfer) => transfer.state === "running").length : 0;
  const words = {
    healthy: running ? format.plural(running, "transfer") : "all is well",
    behind: "needs a look",
    degraded: "degraded",
    unhealthy: "unhealthy",
    away: connection.state === "token" ? "token needed" : "not connected",
  };
  const title = `${name}: ${words[status]}`;
  if (document.title !== title) document.title = title;
  const icon = status === "behind" ? "degraded" : status;
  attribute(byId("icon"), "href", `/dashboard/${icon}.svg`);
  attribute(byId("mark"), "src", `/dashboard/${icon}.svg`);
}

function limitDialog(store: Store): void {
  const dialog = byId<HTMLDialogElement>("limit-dialog");
  const rate = byId<HTMLInputElement>("limit-rate");
  const radio = (value: string) => dialog.querySelector<HTMLInputElement>(`input[value=${value}]`)!;
  const problem = byId("limit-problem");
  byId("limit").addEventListener("click", () => {
    const transport = store.document?.transport;
    const limit = transport?.limit_bits_per_second;
    radio(!transport?.limited_by_operator ? "auto" : limit === undefined ? "off" : "rate").checked = true;
    rate.value = limit === undefined ? "" : `${limit / 1e6}Mbit/s`;
    text(problem, "");
    dialog.showModal();
  });
  rate.addEventListener("input", () => (radio("rate").checked = true));
  byId("limit-set").addEventListener("click", async (event) => {
    event.preventDefault();
    const chosen = dialog.querySelector<HTMLInputElement>("input[name=limit]:checked")!.value;
    const wanted = chosen === "rate" ? rate.value.trim() : chosen;
    try {
      await ask("POST", `/limit?rate=${encodeURIComponent(wanted)}`);
      dialog.close();
      toast("The sending limit is set.");
    } catch (error) {
      text(problem, failed(error));
    }
  });
}
