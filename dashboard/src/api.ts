// Requests to the node that served this page. Off loopback it wants a token, which is kept for this tab only.

const KEY = "dwcp-token";

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export const token = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (value: string): void => sessionStorage.setItem(KEY, value),
};

export function headers(): Record<string, string> {
  const value = token.get();
  return value ? { Authorization: `Bearer ${value}` } : {};
}

/** The JSON that the node answers. Throws Refused with its own words, or TypeError where it cannot be reached. */
export async function ask<T>(method: "GET" | "POST", path: string): Promise<T> {
  const response = await fetch(path, { method, headers: headers(), cache: "no-store" });
  const body = await response.json();
  if (!response.ok) throw new Refused(response.status, body.message ?? `the node answers ${response.status}`);
  return body as T;
}
