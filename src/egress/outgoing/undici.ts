/** Loads undici at the first request (io): most processes send none. */
const DISPATCHERS = [Symbol.for('undici.globalDispatcher.1'), Symbol.for('undici.globalDispatcher.2')];

/** At its start undici makes its own dispatcher the one of Node's `fetch`, which is not ours to change. */
export async function loadUndici(): Promise<typeof import('undici')> {
  loading ??= load();
  return loading;
}

let loading: ReturnType<typeof load> | undefined;

async function load(): Promise<typeof import('undici')> {
  const before = DISPATCHERS.map((name) => Reflect.get(globalThis, name));
  const undici = await import('undici');
  for (const [index, name] of DISPATCHERS.entries()) Reflect.set(globalThis, name, before[index]);
  return undici;
}
