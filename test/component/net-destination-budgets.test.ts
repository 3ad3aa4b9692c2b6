/** Limits of bytes by name at the gateway, with real clients and servers, on loopback. */
import { afterEach, describe, expect, it } from 'vitest';
import { DestinationBudgets } from '../../src/egress/net/policy/destination-budgets.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { namePolicy } from '../../src/egress/net/policy/name-policy.ts';
import { ADDRESS, ALERT, cleanUp, errorOf, helloOf, httpWorld, sClient, tlsWorld } from '../support/gateway-servers.ts';
import { type GatewayWorld, talk } from '../support/gateway-world.ts';

const PUBLIC = ['93.184.216.34', '93.184.216.35'] as const;

afterEach(cleanUp);

const budgetsOf = (bytesMax: number) => new DestinationBudgets([{ name: 'a.example', bytesMax }], {});
const usedOf = (budgets: DestinationBudgets) => budgets.use()[0]?.bytesUsed ?? 0;

function prepare(made: GatewayWorld, budgets: DestinationBudgets, port: number): void {
  const policy = parsePolicy({ mode: 'allowlist', allow: ['a.example', 'b.example'] });
  made.policy = namePolicy(policy, budgets);
  made.destination = { address: PUBLIC[0], port };
  for (const name of ['a.example', 'b.example']) made.pins.pin(name, [...PUBLIC], 60);
  const local = made.internet.get(`${ADDRESS}:${port}`) ?? 0;
  for (const address of PUBLIC) made.internet.set(`${address}:${port}`, local);
}

const get = (path: string, host = 'a.example', more = 'Connection: close\r\n') =>
  `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`;

describe('Gateway: byte budgets by name', () => {
  it('count all connections and addresses, both directions; exhausted: 403, while other names still work', async () => {
    const budgets = budgetsOf(1000);
    const { made, seen } = await httpWorld({ budgets });
    prepare(made, budgets, 80);
    const sizes: number[] = [];
    for (const address of [...PUBLIC, PUBLIC[0]]) {
      made.destination = { address, port: 80 };
      const reply = await talk(made.port, [get('/x')]);
      expect(reply.toString()).toContain('200 OK');
      sizes.push(get('/x').length + reply.length);
    }
    expect(usedOf(budgets)).toBe(sizes.reduce((sum, size) => sum + size, 0));
    budgets.setLimits([{ name: 'a.example', bytesMax: usedOf(budgets) }]);
    expect(errorOf(await talk(made.port, [get('/spent')]))).toBe('budget_spent');
    expect((await talk(made.port, [get('/other', 'b.example')])).toString()).toContain('200 OK');
    expect(seen.map((line) => line.split(' ')[2])).toEqual(['/x', '/x', '/x', '/other']);
    expect(made.gateway.stats().ended.get('budget_spent')).toBe(1);
  });
  it('bytes beyond the budget are not forwarded, in answers or requests', async () => {
    const budgets = budgetsOf(get('/x').length + 10);
    const { made, seen } = await httpWorld({ budgets });
    prepare(made, budgets, 80);
    expect((await talk(made.port, [get('/x')])).toString()).toBe('');
    expect(seen).toHaveLength(1);
    expect(budgets.isExhausted('a.example')).toBe(true);
    budgets.setLimits([{ name: 'a.example', bytesMax: get('/x').length * 2 + 9 }]);
    expect(errorOf(await talk(made.port, [get('/again')]))).toBe('budget_spent');
    expect(seen).toHaveLength(1);
    expect(made.reasons()).toEqual(['allowed', 'budget_spent', 'budget_spent']);
  });
  it('a second name on a connection counts all earlier bytes of the connection', async () => {
    const budgets = budgetsOf(10_000);
    const { made } = await httpWorld({ budgets });
    prepare(made, budgets, 80);
    const first = get('/first', 'b.example', '');
    const reply = await talk(made.port, [first, get('/second')]);
    expect(usedOf(budgets)).toBe(first.length + get('/second').length + reply.length);
  });
  it('undecrypted TLS counts its bytes, and gets an alert when the budget is exhausted', async () => {
    const budgets = budgetsOf(100_000);
    const made = await tlsWorld({}, { budgets });
    prepare(made, budgets, 443);
    expect((await sClient(made, '-servername', 'a.example')).out).toContain('hello a.example');
    const used = usedOf(budgets);
    expect(used).toBeGreaterThan(500);
    budgets.setLimits([{ name: 'a.example', bytesMax: used }]);
    expect(await talk(made.port, [await helloOf('a.example')])).toEqual(ALERT);
    expect((await sClient(made, '-servername', 'b.example')).out).toContain('hello b.example');
    expect(made.reasons()).toEqual(['allowed', 'budget_spent', 'allowed']);
  });
  it('undecrypted TLS is reset when the budget runs out in the middle', async () => {
    const budgets = budgetsOf(400);
    const made = await tlsWorld({}, { budgets });
    prepare(made, budgets, 443);
    const { code, out } = await sClient(made, '-servername', 'a.example');
    expect(code).not.toBe(0);
    expect(out).not.toContain('hello a.example');
    expect(made.reasons()).toContain('budget_spent');
  });
});
