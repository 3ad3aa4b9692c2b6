/** Texts of egress rules: read, or refused with a typed error; what is read decides without an exception. */
import { inspect } from 'node:util';
import { NetError } from '../../src/egress/net/errors.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { decide } from '../../src/egress/net/policy/policy.ts';
import { must, target } from './target.ts';

const ASKED = [
  { names: ['a.example.com'], address: '93.184.216.34', port: 443, protocol: 'tcp' },
  { names: [], address: '10.0.0.1', port: 53, protocol: 'udp' },
  { names: [], address: '169.254.169.254', port: 80, protocol: 'tcp' },
] as const;

export const egressRules = target(
  'egress-rules',
  (bytes) => {
    const [mode = '', allow = '', deny = ''] = bytes.toString('latin1').split('\0');
    const list = (text: string): string[] => text.split('\n').filter((line) => line !== '');
    const text = { mode, allow: list(allow), deny: list(deny) };
    let policy: ReturnType<typeof parsePolicy>;
    try {
      policy = parsePolicy(text);
    } catch (error) {
      must(error instanceof NetError, `not a NetError: ${String(error)}`);
      return;
    }
    must(policy.allow.length === text.allow.length, 'a rule was lost');
    for (const asked of ASKED) {
      const verdict = decide(policy, asked);
      must(typeof verdict.allowed === 'boolean', 'no verdict');
      must(asked.port !== 80 || !verdict.allowed, 'a metadata service is allowed');
    }
    // What was read once reads the same again.
    const again = parsePolicy({
      mode: policy.mode,
      allow: policy.allow.map((rule) => rule.text),
      deny: policy.deny.map((rule) => rule.text),
    });
    must(inspect(again, { depth: 9 }) === inspect(policy, { depth: 9 }), 'reads differently');
  },
  {
    maxBytes: 600,
    seeds: [
      'allowlist\0example.com\n*.example.com:443/tcp\n93.184.216.0/24:1-65535\0',
      'open\0\x0010.0.0.0/8\n[2001:db8::/32]:53/udp\n192.0.2.7',
      'allowlist\0GET https://api.example.com/v1/*\nPOST http://a.example/x\0',
      'none\0\0',
    ],
  },
);
