/** `deploy/` and the systemd unit: checks that need neither containers nor systemd. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';
import { createApiServer } from '../../src/api/rest/server.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { addDaemon } from '../../src/cli/definitions/daemon.ts';
import { type ListenFlags, listenChoice } from '../../src/cli/flags/listen-flags.ts';
import { HUNG_MS } from '../../src/host/telemetry/loop-watch.ts';
import { STARTS_MS_MAX } from '../../src/sandbox/plane/daemon-stop.ts';
import { PAUSE_GRACE_MS } from '../../src/sandbox/plane/lifetime.ts';
import { ROOT } from '../support/cli.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { requires } from '../support/requires.ts';

const DEPLOY = join(ROOT, 'deploy');
const read = <T>(path: string, schema: z.ZodType<T>): T =>
  schema.parse(parse(readFileSync(join(DEPLOY, path), 'utf8'), { strict: true }));

// The used part of the Compose Specification; any other key is an error.
const compose = read(
  'compose.yaml',
  z.strictObject({
    name: z.string().regex(/^[a-z0-9][a-z0-9_-]*$/),
    services: z.record(
      z.string(),
      z.strictObject({
        image: z.string(),
        network_mode: z.literal('host'),
        restart: z.enum(['no', 'always', 'on-failure', 'unless-stopped']),
        command: z.array(z.string()).optional(),
        environment: z.record(z.string(), z.string()).optional(),
        volumes: z.array(z.string()).optional(),
        depends_on: z.array(z.string()).optional(),
      }),
    ),
    volumes: z.record(z.string(), z.strictObject({})),
  }),
);
const services = Object.entries(compose.services);

/** Path in the container → path in the repository, or null for a volume. */
const mounts = services.flatMap(([service, { volumes = [] }]) =>
  volumes.map((text) => {
    const [source = '', target = '', mode] = text.split(':');
    return { service, source, target, mode, here: source.startsWith('./') ? source : null };
  }),
);

describe('compose.yaml', () => {
  it('images: pinned to one version', () => {
    for (const [, { image }] of services) expect(image).toMatch(/^[a-z]+\/[a-z]+:v?\d+\.\d+\.\d+$/);
  });

  it('mounted files exist and are read-only; named volumes and services exist', () => {
    for (const { here, source, mode } of mounts) {
      if (here === null) expect(compose.volumes).toHaveProperty(source);
      else expect([here, existsSync(join(DEPLOY, here)), mode]).toEqual([here, true, 'ro']);
    }
    for (const [, { depends_on: names = [] }] of services) {
      for (const name of names) expect(compose.services).toHaveProperty(name);
    }
  });

  it('each file in a command or variable is mounted at that path', () => {
    const targets = mounts.map(({ service, target }) => `${service} ${target}`);
    expect(targets).toEqual(
      expect.arrayContaining([
        'prometheus /etc/prometheus/prometheus.yml',
        // Beside it: its `rule_files` is relative.
        'prometheus /etc/prometheus/alerts.yml',
        'jaeger /etc/jaeger/jaeger.yaml',
        'grafana /etc/grafana/provisioning',
        'grafana /etc/neurovisor/dashboards/neurovisor.json',
      ]),
    );
    expect(compose.services['prometheus']?.command).toContain('--config.file=/etc/prometheus/prometheus.yml');
    expect(compose.services['jaeger']?.command).toContain('/etc/jaeger/jaeger.yaml');
    const { environment = {} } = compose.services['grafana'] ?? {};
    const home = environment['GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH'];
    expect(home).toBe('/etc/neurovisor/dashboards/neurovisor.json');
  });

  it('ports listen only on the loopback address', () => {
    const { prometheus, grafana } = compose.services;
    expect(prometheus?.command).toContain('--web.listen-address=127.0.0.1:9090');
    expect(grafana?.environment?.['GF_SERVER_HTTP_ADDR']).toBe('127.0.0.1');
    const text = readFileSync(join(DEPLOY, 'jaeger/jaeger.yaml'), 'utf8');
    const places = [...text.matchAll(/endpoint: (.*)/g)].map(([, place]) => place);
    expect(places).toHaveLength(3);
    for (const place of places) expect(place).toMatch(/^127\.0\.0\.1:\d+$/);
  });
});

describe('addresses', () => {
  it('Prometheus scrapes the daemon’s metrics, and needs no key with --open-metrics', async () => {
    const target = z.object({ targets: z.tuple([z.literal('127.0.0.1:7070')]) });
    const { scrape_configs: jobs } = read(
      'prometheus/prometheus.yml',
      z.strictObject({
        global: z.strictObject({ scrape_interval: z.string(), scrape_timeout: z.string() }),
        rule_files: z.tuple([z.literal('alerts.yml')]),
        scrape_configs: z.array(
          z.strictObject({ job_name: z.string(), metrics_path: z.string(), static_configs: z.array(target) }),
        ),
      }),
    );
    await using control = new FakeControlPlane();
    await using server = await createApiServer({ control, log: silentLog, apiKey: 'k', openMetrics: true });
    const port = await server.listen({ port: 0 });
    const answer = await fetch(`http://127.0.0.1:${port}${jobs[0]?.metrics_path}`);
    expect([answer.status, await answer.text()]).toEqual([200, expect.stringContaining('# TYPE')]);
  });

  it('Grafana finds Prometheus, Jaeger and the dashboard', () => {
    const source = z.object({ type: z.string(), url: z.string(), isDefault: z.boolean().optional() });
    const { datasources } = read(
      'grafana/provisioning/datasources/neurovisor.yaml',
      z.object({ apiVersion: z.literal(1), datasources: z.array(source) }),
    );
    expect(datasources).toEqual([
      { type: 'prometheus', url: 'http://127.0.0.1:9090', isDefault: true },
      { type: 'jaeger', url: 'http://127.0.0.1:16686' },
    ]);
    const { providers } = read(
      'grafana/provisioning/dashboards/neurovisor.yaml',
      z.object({ providers: z.array(z.object({ options: z.object({ path: z.string() }) })) }),
    );
    const folder = providers[0]?.options.path ?? '';
    expect(mounts.some(({ target }) => target.startsWith(`${folder}/`))).toBe(true);
  });

  it('Jaeger receives traces where the README sends the daemon’s, through to its storage', () => {
    const exporters = z.record(z.string(), z.object({ trace_storage: z.string() }));
    const jaeger = read(
      'jaeger/jaeger.yaml',
      z.object({
        service: z.object({
          extensions: z.array(z.string()),
          pipelines: z.object({ traces: z.record(z.string(), z.array(z.string())) }),
        }),
        receivers: z.record(z.string(), z.unknown()),
        processors: z.record(z.string(), z.unknown()),
        extensions: z.object({
          jaeger_storage: z.object({ backends: z.record(z.string(), z.unknown()) }),
          jaeger_query: z.object({ storage: z.object({ traces: z.string() }) }),
        }),
        exporters,
      }),
    );
    const { traces } = jaeger.service.pipelines;
    for (const [kind, names] of Object.entries(traces)) {
      for (const name of names) expect(jaeger[kind as 'receivers']).toHaveProperty(name);
    }
    for (const name of jaeger.service.extensions) expect(jaeger.extensions).toHaveProperty(name);
    const { backends } = jaeger.extensions.jaeger_storage;
    expect(backends).toHaveProperty(jaeger.extensions.jaeger_query.storage.traces);
    expect(backends).toHaveProperty(jaeger.exporters['jaeger_storage_exporter']?.trace_storage ?? 'none');
    const readme = readFileSync(join(DEPLOY, 'README.md'), 'utf8');
    const [, endpoint = ''] = /NEUROVISOR_OTLP_ENDPOINT=(\S+)/.exec(readme) ?? [];
    const { traces: to } = readConfig({ NEUROVISOR_OTLP_ENDPOINT: endpoint });
    expect(to?.url).toBe('http://127.0.0.1:4318/v1/traces');
  });
});

it('docs/operations.md: the runbook has a row for each alert, and for no other', () => {
  const names = (path: string, pattern: RegExp): string[] =>
    [...readFileSync(join(ROOT, path), 'utf8').matchAll(pattern)].map(([, name = '']) => name);
  const alerts = names('deploy/prometheus/alerts.yml', /- alert: (\w+)/g);
  expect(alerts.length).toBeGreaterThan(8);
  expect(names('docs/operations.md', /^\| `(NeuroVisor\w+)` \|[^|]{20,}\|[^|]{10,}\|$/gm)).toEqual(alerts);
});

describe('deploy/systemd', () => {
  const unit = readFileSync(join(DEPLOY, 'systemd/neurovisor.service'), 'utf8');
  const lines = unit.split('\n');
  const values = (key: string): string[] =>
    lines.filter((line) => line.startsWith(`${key}=`)).map((line) => line.slice(key.length + 1));

  it('neurovisor.service: starts the daemon as a user, in a delegated group, with its own home', () => {
    expect(values('ExecStart')).toEqual(['/opt/neurovisor/neurovisor serve $SERVE_OPTIONS']);
    expect(values('EnvironmentFile')).toEqual(['-/etc/default/neurovisor']);
    expect(values('User')).toEqual(['neurovisor']);
    expect(values('Delegate')).toEqual(['yes']);
    // The daemon reports, and is not the main process.
    expect([values('Type'), values('NotifyAccess')]).toEqual([['notify'], ['all']]);
    expect(values('ExecReload')).toEqual([
      '/opt/neurovisor/neurovisor config check $SERVE_OPTIONS',
      'kill -HUP $MAINPID',
    ]);
    // A daemon that hangs is killed at most after twice that, and another one started.
    expect(Number(values('WatchdogSec')[0]) * 1000).toBeGreaterThan(4 * HUNG_MS);
    // A stop pauses all sandboxes to disk.
    expect(Number(values('TimeoutStopSec')[0]) * 1000).toBeGreaterThan(STARTS_MS_MAX + PAUSE_GRACE_MS);
    expect(values('Environment')).toEqual([`NEUROVISOR_HOME=/var/lib/${values('StateDirectory').join()}`]);
  });

  it('neurovisor.default: the daemon accepts each of its options and variables', async () => {
    const text = readFileSync(join(DEPLOY, 'systemd/neurovisor.default'), 'utf8');
    const settings = [...text.matchAll(/^#([A-Z_]+)=(?:"(.*)"|(\S+))$/gm)];
    const options = settings.filter(([, name]) => name === 'SERVE_OPTIONS').map(([, , quoted = '']) => quoted);
    expect(options.length).toBeGreaterThan(2);
    for (const one of options) {
      const program = new Command('neurovisor');
      addDaemon(program);
      const serve = program.commands.find((command) => command.name() === 'serve');
      const flags: unknown[] = [];
      serve?.action((given: unknown) => void flags.push(given));
      await program.exitOverride().parseAsync(['serve', ...one.split(' ')], { from: 'user' });
      expect(flags).toHaveLength(1);
      expect(listenChoice(flags[0] as ListenFlags)?.port).toBeGreaterThan(0);
    }
    const variables = settings.filter(([, name]) => name !== 'SERVE_OPTIONS');
    expect(variables.length).toBeGreaterThan(1);
    const documented = readFileSync(join(ROOT, 'docs/configuration.md'), 'utf8');
    for (const [, name] of variables) expect(documented).toContain(`| \`${name}\` |`);
    readConfig(Object.fromEntries(variables.map(([, name, , value]) => [name, value])));
  });

  requires('systemd', hasSystemdAnalyze() || 'systemd-analyze is missing').it('systemd accepts the unit', () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-unit-'));
    try {
      const path = join(dir, 'neurovisor.service');
      const here = unit.replaceAll('/opt/neurovisor', ROOT);
      // The host's own units may have faults.
      const faults = (text: string) => {
        writeFileSync(path, text);
        const { stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', path], { encoding: 'utf8' });
        return stderr.split('\n').filter((line) => line.includes('neurovisor.service'));
      };
      expect(faults(here)).toEqual([]);
      expect(faults(here.replace('KillMode=mixed', 'KillMode=some'))).toEqual([expect.stringContaining('kill mode')]);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

function hasSystemdAnalyze(): boolean {
  return spawnSync('systemd-analyze', ['--version']).error === undefined;
}
