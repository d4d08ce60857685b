// What is kept at other sites by itself: how old it is at each target, when it runs, and the buttons to change that.

import { act } from "./act";
import { attribute, byId, h, joined, Keyed, show, text, type Row } from "./dom";
import * as format from "./format";
import type { NodeDocument, Target, Workload } from "./model";
import type { Store } from "./store";
import { versions } from "./versions";

export function workloads(store: Store): void {
  const list = new Keyed<Workload>(byId("workloads-list"), row);
  // samples come every few seconds, and ages grow meanwhile
  store.watch(["workloads", "samples"], () => {
    const all = Object.entries(store.document!.workloads ?? {});
    list.render(all.sort(([a], [b]) => a.localeCompare(b)));
    const stale = countStale(store.document!);
    text(byId("workloads-count"), stale ? `${format.count(stale)} stale` : format.count(all.length));
    show(byId("workloads"), all.length > 0);
    show(byId("workloads-link"), all.length > 0);
  });
}

function row(name: string): Row<Workload> {
  const source = h("span", { class: "muted" });
  const badge = h("span", { class: "badge" });
  const run = button("Run now", `Run ${name} now`);
  const pause = button("Pause", `Pause ${name}`);
  const resume = button("Resume", `Resume ${name}`);
  const times = h("span", { class: "numbers" });
  const places = h("ul", { class: "targets" });
  const targets = new Keyed<[Workload, Target]>(places, (place) => targetRow(name, place));
  const element = h(
    "li",
    { class: "workload", "data-workload": name },
    h("div", { class: "workload-head" }, h("div", { class: "what" }, h("h3", {}, name), source), badge, run, pause, resume),
    times,
    places,
  );
  const path = `/workloads/${encodeURIComponent(name)}`;
  run.addEventListener("click", () => void act(`${path}/run`, `${name} is queued.`));
  pause.addEventListener("click", () => void act(`${path}/pause`, `${name} is paused.`));
  resume.addEventListener("click", () => void act(`${path}/resume`, `${name} runs by itself again.`));
  return {
    element,
    update(workload) {
      text(source, workload.source);
      const off = !workload.enabled ? "not enabled" : workload.paused ? "paused" : "";
      text(badge, off);
      show(badge, !!off);
      show(pause, workload.enabled && !workload.paused && byItself(workload).length > 0);
      show(resume, workload.enabled && workload.paused);
      text(times, when(workload));
      targets.render(Object.entries(workload.targets).map(([place, target]) => [place, [workload, target]]));
    },
  };
}

function button(words: string, label: string): HTMLButtonElement {
  return h("button", { type: "button", class: "quiet", "aria-label": label }, words);
}

function targetRow(name: string, place: string): Row<[Workload, Target]> {
  const badge = h("span", { class: "badge" });
  const age = h("span", { class: "muted" });
  const damaged = h("span", { class: "error" });
  const list = button("Versions", `Versions of ${name} at ${place}`);
  list.addEventListener("click", () => void versions(name, place));
  return {
    element: h("li", { "data-target": place }, h("span", { class: "target" }, place), badge, age, list, damaged),
    update([workload, target]) {
      const stale = isStale(workload, target);
      const missing = target.sent_at === undefined;
      const state = stale ? "stale" : missing ? "not there yet" : "fresh";
      text(badge, state);
      attribute(badge, "data-state", state);
      // without a promise there is nothing to be fresh by
      show(badge, workload.max_age !== undefined || missing);
      const old = target.sent_at ? `${format.about(format.now() - target.sent_at)} old` : stale ? "not there yet" : "";
      const promised = workload.max_age === undefined ? "" : `at most ${format.period(workload.max_age)}${missing ? " old" : ""}`;
      text(
        age,
        joined(
          [old, promised].filter(Boolean).join(", "),
          target.version ? `version ${target.version}` : "",
          target.verified_at ? `checked ${format.second(target.verified_at)}` : "",
        ),
      );
      text(damaged, target.damaged ? `${format.plural(target.damaged, "stored file")} damaged` : "");
      show(damaged, !!target.damaged);
      show(list, !!target.version);
    },
  };
}

/** As the alert has it: what never came there counts from when the workload was declared. */
/** Workloads of which a target has something older than was promised. */
export function countStale(node: NodeDocument): number {
  const all = Object.values(node.workloads ?? {});
  return all.filter((workload) => Object.values(workload.targets).some((target) => isStale(workload, target))).length;
}

function isStale(workload: Workload, target: Target): boolean {
  const from = target.sent_at ?? workload.since;
  return workload.max_age !== undefined && from !== undefined && format.now() - from > workload.max_age;
}

/** What makes it run without being asked to. */
function byItself(workload: Workload): string[] {
  return [
    workload.every === undefined ? "" : `every ${format.period(workload.every)}`,
    workload.cron ? `cron ${workload.cron}` : "",
    workload.on_change ? "when it changes" : "",
  ].filter(Boolean);
}

function when(workload: Workload): string {
  return joined(
    byItself(workload).join(", ") || "on request",
    workload.asked_at === undefined ? "never run" : `last run ${format.second(workload.asked_at)}`,
    workload.next_run_at === undefined ? "" : workload.next_run_at <= format.now() ? "due now" : `next run ${format.second(workload.next_run_at)}`,
    workload.keep ? `keeps ${workload.keep}` : "",
  );
}
