import { Readable } from 'node:stream';
import { expect, it } from 'vitest';
import type { ExecSpec } from '../../../machine/guest/guest.ts';
import type { ControlPlane } from '../../../sandbox/contract/control.ts';
import { Interpreters } from './interpreter.ts';

it('Interpreters: kernels get the variables that identify E2B’s sandboxes', async () => {
  const told: ExecSpec[] = [];
  const guest = {
    exec: async (spec: ExecSpec) => {
      told.push(spec);
      const stream = () => Readable.from([]);
      return { stdout: stream(), stderr: stream(), exit: Promise.resolve({ exitCode: 0 }) };
    },
  };
  const control = { guest: async () => guest } as unknown as ControlPlane;
  const info = { id: 'a1', template: 'code-interpreter', annotations: {}, network: null };
  const interpreters = new Interpreters({ control });
  await Promise.all([interpreters.prepare(info), interpreters.prepare(info)]);
  const env = { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: 'a1', E2B_TEMPLATE_ID: 'code-interpreter' };
  expect(told).toMatchObject([{ env }]);
});
