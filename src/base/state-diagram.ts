/** The Mermaid state diagram of a transition table: state → event → next state. */
export function stateDiagram(
  initial: readonly string[],
  table: Readonly<Record<string, Readonly<Partial<Record<string, string>>>>>,
): string {
  const lines = ['stateDiagram-v2', ...initial.map((state) => `  [*] --> ${state}`)];
  for (const [from, events] of Object.entries(table)) {
    for (const [event, to] of Object.entries(events)) lines.push(`  ${from} --> ${to}: ${event}`);
  }
  return `${lines.join('\n')}\n`;
}
