// The configuration in force, and what the kernel made of it; fetched when somebody wants to see it.

import { ask } from "./api";
import { byId, h } from "./dom";
import type { Store } from "./store";
import { failed } from "./toast";

type Value = null | boolean | number | string | Value[] | { [key: string]: Value };

export function configuration(store: Store): void {
  const body = byId("configuration-body");
  let open = false;
  let reloaded = 0;
  const load = async () => {
    try {
      const [config, status] = await Promise.all([
        ask<{ [key: string]: Value }>("GET", "/config"),
        ask<{ sockets: { [key: string]: Value }; warnings: string[] }>("GET", "/status"),
      ]);
      open = true;
      const unfolded = new Set([...body.querySelectorAll("details[open]")].map((section) => section.id));
      const sections = Object.entries(config).filter(([, value]) => isObject(value));
      const single = Object.fromEntries(Object.entries(config).filter(([, value]) => !isObject(value)));
      body.replaceChildren(
        ...status.warnings.map((warning) => h("p", { class: "banner" }, warning)),
        section("general", single, unfolded),
        ...sections.map(([name, value]) => section(name, value, unfolded)),
        section("sockets, as the kernel has them", status.sockets, unfolded),
      );
    } catch (error) {
      body.prepend(h("p", { class: "error" }, failed(error)));
    }
  };
  byId("configuration-load").addEventListener("click", load);
  store.watch(["log"], () => {
    const newest = store.log.findLast((record) => record.kind === "config" && record.event === "reload")?.seq ?? 0;
    if (open && newest > reloaded) void load();
    reloaded = newest;
  });
}

const isObject = (value: Value): value is { [key: string]: Value } =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function section(name: string, value: Value, unfolded: Set<string>): HTMLElement {
  const id = `configuration-${name.replace(/\W+/g, "-")}`;
  const list = h("dl", { class: "settings" });
  for (const [key, entry] of flat(value)) list.append(h("div", {}, h("dt", {}, key), h("dd", {}, entry)));
  const element = h("details", { id, class: "card" }, h("summary", {}, name), list);
  element.open = unfolded.has(id);
  return element;
}

function flat(value: Value, prefix = ""): [string, string][] {
  if (!isObject(value)) return [[prefix, Array.isArray(value) ? value.map(String).join(", ") || "none" : String(value ?? "none")]];
  const entries = Object.entries(value);
  if (!entries.length) return prefix ? [[prefix, "none"]] : [];
  return entries.flatMap(([key, entry]) => flat(entry, prefix ? `${prefix}.${key}` : key));
}
