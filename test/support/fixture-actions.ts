/** Actions of a fixture, one JSON array per line of its stdin: the name, then arguments. */
import { createInterface } from 'node:readline';
import { type CodedError, describeError } from '../../src/base/errors.ts';

/**
 * Answers each line with one: `{"ok": …}` or `{"error": …}`. Resolves at the end of stdin.
 * @param Refusal errors that are answers; any other ends the fixture
 */
export async function serveActions(
  actions: object,
  // biome-ignore lint/suspicious/noExplicitAny: classes of errors differ in what they are made with.
  Refusal: abstract new (...values: any[]) => CodedError,
): Promise<void> {
  const byName = actions as Readonly<Record<string, (...values: unknown[]) => unknown>>;
  for await (const line of createInterface({ input: process.stdin })) {
    const [action = '', ...values] = JSON.parse(line) as [string, ...unknown[]];
    const act = byName[action];
    if (act === undefined) throw new Error(`no action ${action}`);
    try {
      tell({ ok: (await act(...values)) ?? null });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const { code, message, remedy, cause } = error;
      tell({ error: { code, message, remedy, cause: describeError(cause) } });
    }
  }
}

function tell(answer: unknown): void {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
