/** The part of PromQL that dashboards use: the metrics that an expression reads, and its labels. */

/** All `expr` of a dashboard. */
export function expressions(dashboard: unknown): readonly string[] {
  if (Array.isArray(dashboard)) return dashboard.flatMap(expressions);
  if (typeof dashboard !== 'object' || dashboard === null) return [];
  return Object.entries(dashboard).flatMap(([key, value]) =>
    key === 'expr' && typeof value === 'string' ? [value] : expressions(value),
  );
}

const CLOSES: Readonly<Record<string, string>> = { '(': ')', '{': '}', '[': ']' };

/** @throws if brackets don't match, or a matcher is invalid */
export function namesIn(expr: string): readonly { name: string; labels: readonly string[] }[] {
  requireBrackets(expr);
  const grouped = [...expr.matchAll(/\b(?:by|without|on|ignoring)\s*\(([^)]*)\)/g)].flatMap(([, list = '']) =>
    list.split(',').map((label) => label.trim()),
  );
  const bare = expr.replaceAll(/\b(?:by|without|on|ignoring)\s*\([^)]*\)|\b(?:and|or|unless)\b/g, ' ');
  const selectors = [...bare.matchAll(/([a-z_][a-z0-9_]*)\s*(\{[^}]*\})?(?!\w)(?!\s*\()/g)];
  const names = new Map<string, Set<string>>();
  for (const [, name = '', matchers = ''] of selectors) {
    if (isInside(bare, name) || /^\d/.test(name)) continue;
    const labels = names.get(name) ?? new Set<string>();
    for (const matcher of matchers.slice(1, -1).split(',').filter(Boolean)) {
      const label = /^\s*([a-z_][a-z0-9_]*)\s*(?:=~?|!=|!~)\s*"[^"]*"\s*$/.exec(matcher)?.[1];
      if (label === undefined) throw new Error(`no matcher: ${matcher}`);
      labels.add(label);
    }
    names.set(name, labels);
  }
  const unique = [...new Set(grouped)];
  return [...names].map(([name, labels]) => ({ name, labels: [...new Set([...labels, ...unique])] }));
}

/** A word in a range (`5m`, `$__rate_interval`) or in a string is no name. */
function isInside(expr: string, name: string): boolean {
  const outside = expr.replaceAll(/\[[^\]]*\]/g, '').replaceAll(/\{[^}]*\}/g, '');
  return !new RegExp(`(?<![\\w$])${name}(?!\\w)(?!\\s*\\()`).test(outside);
}

function requireBrackets(expr: string): void {
  const open: string[] = [];
  for (const char of expr.replaceAll(/"[^"]*"/g, '')) {
    const closing = CLOSES[char];
    if (closing !== undefined) open.push(closing);
    else if (')}]'.includes(char) && open.pop() !== char) throw new Error(`bracket in ${expr}`);
  }
  if (open.length > 0) throw new Error(`bracket in ${expr}`);
}
