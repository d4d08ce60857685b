// The versions of a workload at one of its targets, and for each the command that restores it.

import { ask } from "./api";
import { byId, h, joined, show, text } from "./dom";
import * as format from "./format";
import type { Version } from "./model";
import { failed } from "./toast";

export async function versions(name: string, target: string): Promise<void> {
  const dialog = byId<HTMLDialogElement>("versions-dialog");
  const list = byId("versions-list");
  text(byId("versions-title"), `Versions of ${name}`);
  text(byId("versions-where"), `at ${target}`);
  text(byId("versions-status"), "");
  list.replaceChildren();
  show(byId("versions-hint"), false);
  dialog.showModal();
  try {
    const path = `/workloads/${encodeURIComponent(name)}/versions?target=${encodeURIComponent(target)}`;
    const found = await ask<Version[]>("GET", path);
    list.replaceChildren(...found.reverse().map(row));
    show(byId("versions-hint"), found.length > 0);
    if (!found.length) text(byId("versions-status"), "There is none yet.");
  } catch (error) {
    text(byId("versions-status"), failed(error));
  }
}

function row(version: Version): HTMLElement {
  const copy = h("button", { type: "button", "aria-label": `Copy the command that restores ${version.id}` }, "Copy");
  const command = h("code", { tabindex: "0" }, version.restore);
  copy.addEventListener("click", () => void copied(command));
  const numbers = joined(
    format.second(version.taken_at),
    format.plural(version.files, "file"),
    `${format.size(version.bytes)}, ${format.size(version.new_bytes)} new`,
    version.checked_at ? `checked ${format.second(version.checked_at)}` : "",
  );
  const damaged = version.damaged ? `${format.plural(version.damaged, "stored file")} damaged` : "";
  return h(
    "li",
    { "data-version": version.id },
    h("div", { class: "what" }, h("span", { class: "target" }, version.id), h("span", { class: "muted" }, numbers)),
    ...(damaged ? [h("span", { class: "error" }, damaged)] : []),
    h("div", { class: "command" }, command, copy),
  );
}

/** Off loopback and without TLS a page has no clipboard: the command is selected then. */
async function copied(command: HTMLElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(command.textContent);
    text(byId("versions-status"), "The command is copied.");
  } catch {
    getSelection()?.selectAllChildren(command);
    text(byId("versions-status"), "The command is selected: copy it.");
  }
}
