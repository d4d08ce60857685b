// The queue: what runs, what was given up and why, what waits and for what.

import { act, confirm } from "./act";
import { attribute, byId, h, joined, Keyed, show, text, type Row } from "./dom";
import * as format from "./format";
import type { Job, Jobs } from "./model";
import type { Store } from "./store";

const STATES = ["running", "parked", "waiting"] as const;
const NONE: Jobs = { counts: { running: 0, parked: 0, waiting: 0 }, first: {} };

export function jobs(store: Store): void {
  const list = new Keyed<Job>(byId("jobs-list"), (id) => row(store, id));
  // samples come every few seconds, and pauses end meanwhile
  store.watch(["jobs", "peers", "samples"], () => {
    const { counts, first } = store.document!.jobs ?? NONE;
    const shown = Object.entries(first).sort(([, a], [, b]) => order(a, b));
    list.render(shown);
    const some = STATES.filter((state) => counts[state]);
    text(byId("jobs-count"), some.map((state) => `${format.count(counts[state])} ${state}`).join(", "));
    const left = STATES.reduce((sum, state) => sum + counts[state], 0) - shown.length;
    text(byId("jobs-left"), `${format.count(left)} more; dwcp jobs list has them all.`);
    show(byId("jobs-left"), left > 0);
    show(byId("jobs"), shown.length > 0);
  });
}

/** Of one state and priority the oldest comes first: by number, as a script's object has its keys. */
const order = (a: Job, b: Job): number => STATES.indexOf(a.state) - STATES.indexOf(b.state) || b.priority - a.priority;

/** A peer that is not spoken to, or the pause after a failed try; nothing where its turn has not come yet. */
function waitsFor(store: Store, job: Job): string {
  const peer = job.target.slice(0, job.target.indexOf(":"));
  if (job.state === "waiting" && store.document!.peers[peer]?.breaker?.state === "open") return `waits for ${peer}`;
  const pause = job.not_before ?? 0;
  return pause > format.now() ? `tried again at ${format.second(pause)}` : "";
}

function row(store: Store, id: string): Row<Job> {
  const what = h("span", { class: "target" });
  const where = h("span", { class: "muted" });
  const badge = h("span", { class: "badge" });
  const retry = h("button", { type: "button", class: "quiet" }, "Retry");
  const cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
  const numbers = h("span", { class: "numbers" });
  const reason = h("p", { class: "error" });
  const element = h(
    "li",
    { class: "job", "data-job": id },
    h("div", { class: "workload-head" }, h("div", { class: "what" }, what, where), badge, retry, cancel),
    numbers,
    reason,
  );
  let latest: Job;
  retry.addEventListener("click", () => void act(`/jobs/${id}/retry`, `Job ${id} goes as soon as there is room.`));
  cancel.addEventListener("click", () => confirmCancel(id, latest));
  return {
    element,
    update(job) {
      latest = job;
      const pauses = job.state === "waiting" && (job.not_before ?? 0) > format.now();
      attribute(retry, "aria-label", `Retry job ${id}`);
      attribute(cancel, "aria-label", `Cancel job ${id}`);
      show(retry, job.state === "parked" || pauses);
      attribute(element, "data-state", job.state);
      text(what, job.workload ?? job.source);
      text(where, `${job.kind === "verify" ? "checked at" : "to"} ${job.target}`);
      text(badge, job.state);
      attribute(badge, "data-state", job.state);
      text(
        numbers,
        joined(
          `job ${id}`,
          job.started_at === undefined ? "" : `since ${format.second(job.started_at)}`,
          job.attempts === undefined ? "" : format.plural(job.attempts, "failed try", "failed tries"),
          waitsFor(store, job),
        ),
      );
      text(reason, job.reason ?? "");
      show(reason, !!job.reason);
    },
  };
}

function confirmCancel(id: string, job: Job): void {
  confirm(
    {
      title: `Cancel job ${id}?`,
      what: `${job.workload ?? job.source} to ${job.target}`,
      hint: "What has arrived is kept. A workload queues its next job when it is due.",
      yes: "Cancel the job",
      no: "Leave it",
    },
    `/jobs/${id}/cancel`,
    `Job ${id} is cancelled.`,
  );
}
