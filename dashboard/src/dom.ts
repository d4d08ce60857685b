// The little of a framework that this page needs: elements by name, and lists whose rows stay the same elements.

export type Child = Node | string;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Node[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element as T;
}

export function text(element: Element, value: string): void {
  if (element.textContent !== value) element.textContent = value;
}

/** One line of parts that is broken between them only. */
export const joined = (...parts: string[]): string =>
  parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join("  ·  ");

export function attribute(element: Element, name: string, value: string | undefined): void {
  if (value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function show(element: HTMLElement, visible: boolean): void {
  if (element.hidden === visible) element.hidden = !visible;
}

export interface Row<T> {
  element: HTMLElement;
  update: (item: T) => void;
}

/** Keeps the children of `parent` what `items` are, in their order; a key keeps its element. */
export class Keyed<T> {
  private rows = new Map<string, Row<T>>();

  constructor(
    private readonly parent: HTMLElement,
    private readonly create: (key: string) => Row<T>,
  ) {}

  render(items: [string, T][]): void {
    const wanted = new Set(items.map(([key]) => key));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      row.element.remove();
      this.rows.delete(key);
    }
    let place = this.parent.firstElementChild;
    for (const [key, item] of items) {
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, (row = this.create(key)));
      row.update(item);
      if (row.element === place) place = place.nextElementSibling;
      else this.parent.insertBefore(row.element, place);
    }
  }
}
