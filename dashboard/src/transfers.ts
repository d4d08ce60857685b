// Running transfers first, then those that ended; many of them are shown a page at a time.

import { act, confirm } from "./act";
import { attribute, byId, h, joined, Keyed, show, text, type Row } from "./dom";
import * as format from "./format";
import type { Transfer } from "./model";
import type { Store } from "./store";

const PAGE = 50;

export function transfers(store: Store): void {
  let shown = PAGE;
  const state = byId<HTMLSelectElement>("transfers-state");
  const find = byId<HTMLInputElement>("transfers-find");
  const more = byId("transfers-more");
  const list = new Keyed<Transfer>(byId("transfers-list"), (id) => row(id));
  const render = () => {
    const all = Object.entries(store.document!.transfers);
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = all
      .filter(([, t]) => !state.value || t.state === state.value)
      .filter(([id, t]) => words.every((word) => `${t.peer} ${t.target} ${id}`.toLowerCase().includes(word)))
      .sort(([, a], [, b]) => Number(b.state === "running") - Number(a.state === "running") || b.started_at - a.started_at);
    list.render(wanted.slice(0, shown));
    const running = all.filter(([, t]) => t.state === "running").length;
    text(byId("transfers-count"), running ? `${format.count(running)} running` : "");
    show(byId("transfers-empty"), !all.length);
    show(more, wanted.length > shown);
    text(more, `Show more (${format.count(wanted.length - shown)} are left)`);
  };
  store.watch(["transfers"], render);
  for (const input of [state, find]) input.addEventListener("input", () => ((shown = PAGE), store.document && render()));
  more.addEventListener("click", () => ((shown += PAGE), render()));
}

function row(id: string): Row<Transfer> {
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" });
  const target = h("span", { class: "target" });
  const peer = h("span", { class: "muted" });
  const badge = h("span", { class: "badge" });
  const progress = h("progress", { max: "1" });
  const numbers = h("span", { class: "numbers" });
  const error = h("p", { class: "error" });
  const pause = h("button", { type: "button", class: "quiet" }, "Pause");
  const resume = h("button", { type: "button", class: "quiet" }, "Resume");
  const cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
  const element = h(
    "li",
    { class: "transfer", "data-id": id },
    h("div", { class: "transfer-head" }, arrow, h("div", { class: "what" }, target, peer), badge, pause, resume, cancel),
    progress,
    numbers,
    error,
  );
  let latest: Transfer;
  const path = `/transfers/${encodeURIComponent(id)}`;
  pause.addEventListener("click", () => void act(`${path}/pause`, `${latest.target} is paused.`));
  resume.addEventListener("click", () => void act(`${path}/resume`, `${latest.target} goes on.`));
  cancel.addEventListener("click", () => confirmCancel(id, latest));
  return {
    element,
    update(transfer) {
      latest = transfer;
      const running = transfer.state === "running";
      attribute(element, "data-state", transfer.state);
      text(arrow, transfer.role === "send" ? "↑" : "↓");
      text(target, transfer.target || "/");
      text(peer, `${transfer.role === "send" ? "to" : "from"} ${transfer.peer}`);
      const state = transfer.paused ? "paused" : transfer.state;
      text(badge, state);
      attribute(badge, "data-state", state);
      const buttons: [HTMLButtonElement, string, boolean][] = [
        [pause, "Pause", running && !transfer.paused],
        [resume, "Resume", running && !!transfer.paused],
        [cancel, "Cancel", running],
      ];
      for (const [button, verb, shown] of buttons) {
        attribute(button, "aria-label", `${verb} ${transfer.target}`);
        show(button, shown);
      }
      show(progress, running);
      if (running) {
        attribute(progress, "value", transfer.bytes_total ? (transfer.bytes_done / transfer.bytes_total).toFixed(4) : undefined);
        attribute(progress, "aria-label", `Progress of ${transfer.target}`);
      }
      text(numbers, running ? now(transfer) : afterwards(transfer));
      text(error, transfer.error ?? "");
      show(error, !!transfer.error);
    },
  };
}

/** What deltas and compression saved; a few per cent of overhead are no news. */
function onTheWire(transfer: Transfer): string {
  const ratio = transfer.wire_bytes ? transfer.bytes_done / transfer.wire_bytes : 0;
  const saved = ratio > 1.05 ? `, ${ratio.toFixed(ratio < 10 ? 1 : 0)} times less` : "";
  return `${format.size(transfer.wire_bytes)} on the wire${saved}`;
}

function now(transfer: Transfer): string {
  const percent = transfer.bytes_total ? `${Math.floor((transfer.bytes_done / transfer.bytes_total) * 100)} %` : "";
  return joined(
    percent,
    `${format.size(transfer.bytes_done)} of ${format.size(transfer.bytes_total)}`,
    format.rate(transfer.wire_bits_per_second ?? 0),
    format.plural(transfer.streams ?? 0, "stream"),
    onTheWire(transfer),
    toGo(transfer),
  );
}

/** A range that rounds to one number is told as that number. */
function toGo(transfer: Transfer): string {
  if (transfer.eta_seconds === undefined) return "";
  const expected = format.duration(transfer.eta_seconds);
  const [best, worst] = (transfer.eta_range_seconds ?? []).map(format.about);
  return best === worst ? `${expected} to go` : `${expected} to go (${best} to ${worst})`;
}

function afterwards(transfer: Transfer): string {
  return joined(
    format.second(transfer.started_at),
    format.plural(transfer.files_done, "file"),
    format.size(transfer.bytes_done),
    `in ${format.duration(transfer.seconds ?? 0)}`,
    transfer.rate_bits_per_second ? format.rate(transfer.rate_bits_per_second) : "",
    onTheWire(transfer),
  );
}

function confirmCancel(id: string, transfer: Transfer): void {
  confirm(
    {
      title: "Cancel this transfer?",
      what: `${transfer.target} ${transfer.role === "send" ? "to" : "from"} ${transfer.peer}`,
      hint: "What has arrived is kept: the next try goes on from there.",
      yes: "Cancel the transfer",
      no: "Let it run",
    },
    `/transfers/${encodeURIComponent(id)}/cancel`,
    `${transfer.target} is being cancelled.`,
  );
}
