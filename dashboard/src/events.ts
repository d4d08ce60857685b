// The transaction log, newest first, in sentences.

import { attribute, byId, h, Keyed, show, text } from "./dom";
import * as format from "./format";
import type { LogRecord } from "./model";
import type { Store } from "./store";

const PAGE = 20;

export function events(store: Store): void {
  let shown = PAGE;
  const kind = byId<HTMLSelectElement>("events-kind");
  const more = byId("events-more");
  const list = new Keyed<LogRecord>(byId("events-list"), () => {
    const when = h("time");
    const dot = h("span", { class: "dot", "aria-hidden": "true" });
    const what = h("span", { class: "event" });
    return {
      element: h("li", {}, when, dot, what),
      update(record) {
        attribute(when, "datetime", record.time);
        text(when, format.moment(new Date(record.time)));
        attribute(dot, "data-state", mood(record));
        text(what, describe(record));
      },
    };
  });
  const render = () => {
    const kinds = kind.value ? kind.value.split(" ") : [];
    const wanted = store.log.filter((record) => !kinds.length || kinds.includes(record.kind)).reverse();
    list.render(wanted.slice(0, shown).map((record) => [String(record.seq), record]));
    show(more, wanted.length > shown);
    text(more, `Show more (${format.count(wanted.length - shown)} are left)`);
  };
  store.watch(["log"], render);
  kind.addEventListener("input", () => ((shown = PAGE), store.document && render()));
  more.addEventListener("click", () => ((shown += PAGE), render()));
}

function mood(record: LogRecord): string {
  const now = String(record.detail?.["now"] ?? record.detail?.["state"] ?? record.event);
  if (["open", "failed", "unhealthy", "restart-failed", "lost", "refused"].includes(now)) return "unhealthy";
  if (["half-open", "degraded", "parked", "restart", "cancelled", "cut", "resumed"].includes(now)) return "degraded";
  if (["healthy", "done", "closed", "recovered", "reset"].includes(now)) return "healthy";
  return "none";
}

/** A record as a sentence. What has no sentence of its own is shown as it is. */
export function describe(record: LogRecord): string {
  const d = record.detail ?? {};
  const value = (name: string): string => {
    const found = d[name];
    return Array.isArray(found) ? found.join(", ") : String(found ?? "");
  };
  const because = (name = "reason"): string => (d[name] ? `: ${value(name)}` : "");
  const way = d["role"] === "send" ? "to" : "from";
  switch (`${record.kind} ${record.event}`) {
    case "transfer begin":
      return `${value("target") || "/"} ${way} ${record.peer} begins${d["by"] === "command" ? ", by a command" : ""}`;
    case "transfer end":
      return d["state"] === "done"
        ? `${value("target") || "/"} ${way} ${record.peer} is done: ${format.size(Number(d["bytes"]))} in ${format.duration(Number(d["seconds"]))}, ${format.size(Number(d["wire_bytes"]))} on the wire`
        : `${value("target") || "/"} ${way} ${record.peer} ${d["state"] === "lost" ? "was lost" : `has ${value("state") === "cancelled" ? "been cancelled" : "failed"}`}${because("error")}`;
    case "component health":
      return `${value("component")} is ${value("now")}, was ${value("was")}${because()}`;
    case "component start":
      return `${value("component")} has started`;
    case "component restart":
      return `${value("component")} is restarted`;
    case "component restart-failed":
      return `${value("component")} could not be restarted${because()}`;
    case "component recovered":
      return `${value("component")} has recovered`;
    case "component failed":
      return `${value("component")} has failed${because()}`;
    case "breaker open":
    case "breaker half-open":
    case "breaker closed":
      return `breaker of ${record.peer} is ${record.event}${record.event === "closed" ? "" : because()}`;
    case "breaker reset":
      return `breaker of ${record.peer} was closed by hand`;
    case "node start":
      return `the node starts, version ${value("version")}; the run before was ${value("run_before")}`;
    case "node stop":
      return `the node stops${because()}`;
    case "limit set":
      return `the sending limit is set: ${value("rate")}`;
    case "config reload":
      return `the configuration was read again${d["applied"] && value("applied") ? `, applied: ${value("applied")}` : ", nothing has changed"}${value("needs_restart") ? `, waits for a restart: ${value("needs_restart")}` : ""}`;
    case "config refused":
      return `a configuration was refused: ${value("problems")}`;
    case "peer add":
    case "peer remove":
      return `peer ${record.peer} was ${record.event === "add" ? "added" : "removed"}`;
    case "workload add":
    case "workload remove":
      return `workload ${value("name")} was ${record.event === "add" ? "added" : "removed"}`;
    case "workload pause":
      return `workload ${value("name")} is paused`;
    case "workload resume":
      return `workload ${value("name")} runs by itself again`;
    case "job add":
      return `job ${value("id")} was added: ${value("source")} to ${record.peer}:${value("target")}`;
    case "job begin":
      return `job ${value("id")} begins: ${d["what"] === "verify" ? "check of " : ""}${value("workload") && `${value("workload")} at `}${record.peer}:${value("target")}`;
    case "job done":
      return `job ${value("id")} is done${d["version"] ? `, version ${value("version")}` : ""}`;
    case "job parked":
      return `job ${value("id")} was given up${because()}`;
    case "job cancelled":
      return `job ${value("id")} was cancelled`;
    case "snapshot begin":
      return `a snapshot of the state begins (${value("reason")})`;
    case "snapshot end":
      return `a snapshot of the state was taken (${value("reason")})`;
    default:
      return [record.kind, record.event, record.peer, ...Object.keys(d).map((name) => `${name}=${value(name)}`)].filter(Boolean).join(" ");
  }
}
