// Numbers and times as people read them; the same units as the command line.

const scaled = (value: number, base: number, prefixes: string[], unit: string): string => {
  let rest = value;
  let index = 0;
  while (Math.abs(rest) >= base && index < prefixes.length - 1) {
    rest /= base;
    index++;
  }
  const digits = index === 0 || rest >= 100 ? 0 : 1;
  return `${rest.toFixed(digits)} ${prefixes[index]}${unit}`;
};

export const size = (bytes: number): string => scaled(bytes, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi"], "B");
export const rate = (bits: number): string => scaled(bits, 1000, ["", "k", "M", "G", "T"], "bit/s");
export const count = (number: number): string => number.toLocaleString("en");

export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1).replace(/\.0$/, "")} s`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** As `duration`, of what is a round number more often than not. */
export const period = (seconds: number): string => duration(seconds).replace(/ 0 (s|min|h)$/, "");

/** As `duration`, in one unit: for what is glanced at. */
export function about(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129_600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

export function milliseconds(value: number): string {
  return value < 1 ? `${value.toFixed(2)} ms` : value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The time of day, with the day where that is not today. */
export function moment(date: Date): string {
  const time = clock.format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${day.format(date)} ${time}`;
}

/** Seconds since the epoch, as the node tells times. */
export const now = (): number => Date.now() / 1000;

export const second = (seconds: number): string => moment(new Date(seconds * 1000));

export const plural = (number: number, one: string, many = `${one}s`): string =>
  `${count(number)} ${number === 1 ? one : many}`;
