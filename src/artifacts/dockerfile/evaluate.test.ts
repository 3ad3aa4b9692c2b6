// biome-ignore-all lint/suspicious/noTemplateCurlyInString: variables of Dockerfiles
import { describe, expect, it } from 'vitest';
import { DEFAULT_PATH, EMPTY_CONFIG, evaluateStage, NOTHING_INHERITED } from './evaluate.ts';
import { parseDockerfile } from './parse.ts';
import { platformArguments, readStages, targetStage, type Variables } from './stages.ts';

const platform = platformArguments('amd64');

function evaluate(text: string, given: Variables = {}, base = EMPTY_CONFIG, target: string | null = null) {
  const graph = readStages(parseDockerfile(Buffer.from(text)), given, platform);
  const stage = targetStage(graph, target);
  return { ...evaluateStage({ graph, stage, base, inherited: NOTHING_INHERITED, given, platform }), stage, graph };
}
const run = (text: string, given: Variables = {}) => {
  const step = evaluate(text, given).steps.at(-1);
  if (step?.kind !== 'run') throw new Error('no RUN');
  return step;
};
const copy = (text: string) => {
  const step = evaluate(text).steps.at(-1);
  if (step?.kind !== 'copy') throw new Error('no COPY');
  return step;
};

describe('stages', () => {
  it('FROM: reads an image with global arguments, a name, an earlier stage, agent, scratch', () => {
    const { graph } = evaluate(
      'ARG V=1\nARG N=deb:$V\nFROM $N AS Build\nFROM build AS two\nFROM agent\nFROM scratch\nFROM base\n',
      { V: '2' },
    );
    expect(graph.stages.map(({ base, name }) => [name, base])).toEqual([
      ['build', { kind: 'image', reference: 'deb:2' }],
      ['two', { kind: 'stage', index: 0 }],
      [null, { kind: 'agent' }],
      [null, { kind: 'scratch' }],
      [null, { kind: 'ready-made', name: 'base' }],
    ]);
    expect(targetStage(graph, 'TWO').index).toBe(1);
    expect(targetStage(graph, '2').index).toBe(2);
  });

  it.each([
    ['RUN x', 'line 1: RUN before the first FROM'],
    ['', 'has no FROM'],
    ['FROM a b', 'is not FROM IMAGE'],
    ['FROM --platform=linux/arm64 a', 'the platform linux/arm64'],
    ['FROM a AS b\nFROM c\nCOPY --from=d x y\nFROM e AS d', 'EVAL'],
    ['FROM ${N:?set it}', 'line 1: N is not set: set it'],
  ])('refuses %j: %s', (text, message) => {
    if (message === 'EVAL') {
      expect(() => evaluate(text, {}, EMPTY_CONFIG, '1')).toThrow('the stage d is not above');
    } else expect(() => evaluate(text)).toThrow(message);
  });
});

describe('evaluateStage', () => {
  it('ENV and ARG: apply in order; ENV overrides ARG, and the caller overrides a default', () => {
    expect(run('FROM a\nARG A=1\nARG B=$A.$C\nENV C=3 D="$A $B"\nARG C=4\nRUN x', { A: '9' }).env).toEqual({
      PATH: DEFAULT_PATH,
      A: '9',
      B: '9.',
      C: '3',
      D: '9 9.',
    });
  });

  it('ARG: a stage sees global ones and the platform only after declaring them', () => {
    expect(run('ARG G=1\nFROM a\nRUN x').env).toEqual({ PATH: DEFAULT_PATH });
    expect(run('ARG G=1\nFROM a\nARG G TARGETARCH\nRUN x').env).toMatchObject({ G: '1', TARGETARCH: 'amd64' });
  });

  it('RUN: reads shell form, list, SHELL, script, program', () => {
    expect(run('FROM a\nRUN echo "$A" && b').argv).toEqual(['/bin/sh', '-c', 'echo "$A" && b']);
    expect(run('FROM a\nRUN ["a", "b"]').argv).toEqual(['a', 'b']);
    expect(run('FROM a\nSHELL ["bash", "-ec"]\nRUN a').argv).toEqual(['bash', '-ec', 'a']);
    expect(run('FROM a\nRUN <<E\na\nb\nE').argv).toEqual(['/bin/sh', '-c', 'a\nb\n']);
    expect(run('FROM a\nRUN <<E\n#!/usr/bin/env python3\nb\nE').program).toBe('#!/usr/bin/env python3\nb\n');
    expect(run('FROM a\nRUN python3 <<E\nb\nE').argv).toEqual(['/bin/sh', '-c', 'python3 <<E\nb\nE']);
  });

  it('RUN: reads mounts', () => {
    const text =
      'FROM a AS s\nFROM b\nRUN --mount=type=cache,target=/c --mount=type=secret,id=t,env=T ' +
      '--mount=type=secret,id=u,required --mount=from=s,source=/x,target=/y --mount=type=tmpfs,dst=/z x';
    const owner = { uid: 0, gid: 0 };
    expect(run(text).mounts).toEqual([
      { type: 'cache', id: '/c', target: '/c', mode: 0o755, readonly: false, ...owner },
      { type: 'secret', id: 't', target: null, variable: 'T', required: false, mode: 0o400, ...owner },
      { type: 'secret', id: 'u', target: '/run/secrets/u', variable: null, required: true, mode: 0o400, ...owner },
      { type: 'bind', from: { kind: 'stage', index: 0 }, source: '/x', target: '/y' },
      { type: 'tmpfs', target: '/z' },
    ]);
  });

  it('COPY: reads paths, owner, mode, source, texts', () => {
    expect(copy('FROM a\nWORKDIR /w\nWORKDIR v\nCOPY a b* c/')).toMatchObject({
      sources: ['a', 'b*'],
      target: '/w/v/c/',
      from: null,
      owner: null,
      mode: null,
    });
    expect(copy('FROM a AS s\nFROM b\nCOPY --from=s --chown=1:2 --chmod=0750 ["a b", "/"]')).toMatchObject({
      from: { kind: 'stage', index: 0 },
      sources: ['a b'],
      target: '/',
      owner: '1:2',
      mode: 0o750,
    });
    expect(copy('FROM a\nENV N=5\nCOPY <<x.txt /d/\n$N \\$N\nx.txt').inline).toEqual([
      { name: 'x.txt', content: '5 $N\n' },
    ]);
    expect(copy('FROM a\nCOPY --from=busybox:1 /bin/x .').from).toEqual({ kind: 'image', reference: 'busybox:1' });
  });

  it('configuration: applies changes to that of the base', () => {
    const base = { ...EMPTY_CONFIG, user: 'u', cmd: ['old'], env: { PATH: '/p' }, exposedPorts: ['1/tcp'] };
    const { config } = evaluate(
      'FROM a\nENV PATH=/q:$PATH\nUSER 5:6\nWORKDIR x\nENTRYPOINT ["e"]\nEXPOSE 80 53/udp\nLABEL a=b "c d"=e\n' +
        'HEALTHCHECK --interval=1m30s --retries=2 CMD curl x\nSTOPSIGNAL SIGINT',
      {},
      base,
    );
    expect(config).toEqual({
      user: '5:6',
      env: { PATH: '/q:/p' },
      workdir: '/x',
      entrypoint: ['e'],
      cmd: [],
      exposedPorts: ['1/tcp', '80/tcp', '53/udp'],
      labels: { a: 'b', 'c d': 'e' },
      healthcheck: { kind: 'shell', command: ['curl x'], intervalMs: 90_000, timeoutMs: null, retries: 2 },
      stopSignal: 'SIGINT',
    });
  });

  it('VOLUME and MAINTAINER: warn with the line number', () => {
    expect(evaluate('FROM a\nVOLUME /x').warnings).toEqual([expect.stringMatching(/^line 2: VOLUME/)]);
  });

  it.each([
    ['ONBUILD RUN x', 'line 2: ONBUILD'],
    ['FOO x', 'line 2: unknown instruction FOO'],
    ['RUN', 'line 2: RUN has no argument'],
    ['RUN --mount=type=ssh x', '--mount=type=ssh'],
    ['RUN --mount=source=*.lock,target=/x x', '--mount source=*.lock'],
    ['RUN --mount=type=cache x', 'no target'],
    ['RUN --mount=type=secret,id=../x x', 'no valid id'],
    ['RUN --mount=type=tmpfs,target=/x,foo=1 x', 'has no foo'],
    ['RUN --mount=type=tmpfs,target=/x,constructor=1 x', 'has no constructor'],
    ['RUN --security=insecure x', 'RUN --security'],
    ['ADD https://example.com/x /x', 'ADD of an address'],
    ['COPY a', 'needs a source'],
    ['COPY a b c', 'must end with /'],
    ['COPY --chmod=u+x a b', '--chmod=u+x'],
    ['COPY --chown=$(id) a b', 'is not a user'],
    ['ENV A', 'has no value'],
    ['ENV __proto__=x', 'not a name'],
    ['LABEL a=1 b', 'is not NAME=VALUE'],
    ['EXPOSE http', 'is not a port'],
    ['SHELL bash', 'JSON list'],
    ['HEALTHCHECK --interval=x CMD a', 'not a duration'],
    ['USER a b', 'is not a user'],
    ['WORKDIR --x=1 /a', 'WORKDIR has no flag'],
  ])('refuses %s', (text, message) => {
    expect(() => evaluate(`FROM a\n${text}\n`)).toThrow(message);
  });

  it('bounds number and length of variables', () => {
    const many = Array.from({ length: 1001 }, (_, index) => `A${index}=1`).join(' ');
    expect(() => evaluate(`FROM a\nENV ${many}`)).toThrow('too many');
    const doubling = `FROM a\nENV A=xxxxxxxx\n${'ENV A=$A$A\n'.repeat(20)}`;
    expect(() => evaluate(doubling)).toThrow('too long');
  });
});
