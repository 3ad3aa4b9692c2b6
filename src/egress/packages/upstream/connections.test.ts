import { expect, it } from 'vitest';
import { systemClock } from '../../../base/clock.ts';
import { Connections } from './connections.ts';

it('many hosts that a page names do not end the connections to others', () => {
  const index = { baseUrl: 'https://pip.example/simple/' };
  const connections = new Connections(systemClock, 1_000);
  const agentOf = (host: string) => connections.agentFor(new URL(`http://${host}/`), index, true, false);
  const first = agentOf('pip.example');
  let ended = 0;
  const destroy = first.destroy.bind(first);
  first.destroy = () => {
    ended += 1;
    destroy();
  };
  for (let at = 0; at < 100; at += 1) agentOf(`pip.example:${2000 + at}`);
  expect(agentOf('pip.example')).toBe(first);
  expect(ended).toBe(0);
  connections.close();
  expect(ended).toBe(1);
});
