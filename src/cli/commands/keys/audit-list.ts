/** `neurovisor audit ls`, `audit inspect`: what the logs say of requests and calls. */
import { once } from 'node:events';
import type { Administration } from '../../../api/tenants/administration.ts';
import type { AuditListing } from '../../../api/tenants/audit-listing.ts';
import type { AuditRecord, ModelUse } from '../../../api/tenants/audit-record.ts';
import { dollarsText } from '../../../base/text/dollars.ts';
import { plain, plainJson, plainLines } from '../../../base/text/plain.ts';
import type { Cli } from '../../cli.ts';
import { readAuditLogs } from '../../daemon/administer.ts';
import { UsageError } from '../../failure.ts';
import { parseDuration } from '../../flags/options.ts';

export interface AuditLogFlags {
  readonly tenant?: string;
}

export interface AuditListFlags extends AuditLogFlags {
  readonly calls?: boolean;
  readonly sandbox?: string;
  readonly model?: string;
  readonly outcome?: string;
  readonly since?: string;
  readonly content?: boolean;
  readonly follow?: boolean;
}

const SHOWN_TEXT_MAX = 300;

/** Prints records as they are read, oldest first, and at the end what they add up to. JSON: one record per line. */
export async function auditList(cli: Cli, flags: AuditListFlags): Promise<number> {
  const listing = listingOf(flags);
  return await readAuditLogs(cli, (home) => print(cli, home, listing));
}

async function print(cli: Cli, home: Administration, listing: AuditListing): Promise<number> {
  const write = async (text: string): Promise<void> => {
    if (!cli.stdout.write(`${text}\n`)) await once(cli.stdout, 'drain', { signal: cli.cancelled });
  };
  const sum = new Sum();
  try {
    for await (const record of home.audit({ ...listing, signal: cli.cancelled })) {
      if (cli.isOutputClosed || cli.cancelled.aborted) break;
      sum.add(record);
      await write(cli.json ? plainJson(record) : [lineOf(record), ...contentLines(record.content)].join('\n'));
    }
  } catch (error) {
    if (cli.cancelled.aborted) return 0;
    throw error;
  }
  if (!cli.json && listing.follow !== true && !cli.isOutputClosed) await write(sum.text());
  // Ctrl-C is the normal way to stop.
  return 0;
}

/** @throws UsageError */
function listingOf(flags: AuditListFlags): AuditListing {
  const { sandbox, tenant, model, outcome, since, content, follow } = flags;
  if (flags.calls === true && (model ?? outcome ?? content) !== undefined) {
    throw new UsageError(
      'control calls have no model, outcome or content',
      'omit --calls, or --model, --outcome and --content',
    );
  }
  const sinceMs = since === undefined ? undefined : sinceOf(since);
  const log = flags.calls === true ? 'calls' : 'models';
  return { log, target: sandbox, tenant, model, outcome, sinceMs, content, follow };
}

/** A time ago, or a date. @throws UsageError */
function sinceOf(text: string): number {
  const date = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(date)) return date;
  try {
    return Date.now() - parseDuration(text);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError(
      `--since: invalid time "${text}"`,
      'use a duration or a date, for example 2h or 2026-11-29T08:00Z',
    );
  }
}

/** What records add up to. */
class Sum {
  #count = 0;
  #refused = 0;
  #prompt = 0;
  #completion = 0;
  #nanoDollars = 0;
  #isModels = false;

  add({ model }: AuditRecord): void {
    this.#count += 1;
    if (model === undefined) return;
    this.#isModels = true;
    if (model.outcome === 'refused') this.#refused += 1;
    this.#refused += model.leftOut ?? 0;
    this.#prompt += model.promptTokens;
    this.#completion += model.completionTokens;
    this.#nanoDollars += model.costNanoDollars ?? 0;
  }

  text(): string {
    const count = `${this.#count} ${this.#count === 1 ? 'record' : 'records'}`;
    if (!this.#isModels) return count;
    const tokens = `${this.#prompt} tokens in, ${this.#completion} out`;
    const cost = this.#nanoDollars === 0 ? '' : `, $${dollarsText(this.#nanoDollars)}`;
    const refused = this.#refused === 0 ? '' : `, ${this.#refused} refused`;
    return `${count}: ${tokens}${cost}${refused}`;
  }
}

function lineOf(record: AuditRecord): string {
  const { seq, at, tenant, key, call, target, status, ms, model, lost, log } = record;
  const owner = tenant ?? (key === null ? 'nobody' : 'operator');
  const head = [String(seq).padStart(6), at, (target ?? '-').padEnd(12), owner.padEnd(8)];
  const gap = lost === undefined ? [] : [`(${lost} lost before)`];
  // Version 0.2 had one log for all.
  if (tenant !== null && log === undefined) gap.push("(in the operator's log)");
  if (model === undefined) {
    return plain([...head, call, `status ${status}`, `${ms} ms`, ...gap].join('  '));
  }
  return plain([...head, ...useOf(model, call, ms), ...gap].join('  '));
}

function useOf(model: ModelUse, call: string, ms: number): readonly string[] {
  const { name, promptTokens, completionTokens, estimated, outcome, refusal } = model;
  const operation = [model.dialect, call.replace(/^MODEL /, '')].filter(Boolean).join(' ');
  const about = estimated ? '~' : '';
  const cost = model.costNanoDollars == null ? '' : `  $${dollarsText(model.costNanoDollars)}`;
  const leftOut = model.leftOut === undefined ? [] : [`(${model.leftOut} more refused before)`];
  if (outcome === 'refused') return [operation, name, `refused: ${refusal ?? ''}`, ...leftOut];
  return [
    operation,
    `${name}${placeOf(model)}`,
    `${about}${promptTokens} in ${about}${completionTokens} out${cost}`,
    `${ms} ms`,
    outcome,
    ...(model.tools === undefined ? [] : [`tools ${model.tools.join(', ')}`]),
    ...leftOut,
  ];
}

function placeOf({ upstream, cached, replayed }: ModelUse): string {
  if (replayed === true) return ' from a cassette';
  if (cached === true) return ' from the cache';
  return upstream == null ? '' : ` at ${upstream}`;
}

/** The newest message and the answer, each in a line. */
function contentLines(content: AuditRecord['content']): readonly string[] {
  if (content === undefined) return [];
  const body = memberOf(content['request'], 'body');
  const asked = ['messages', 'input', 'prompt'].map((name) => memberOf(body, name));
  const conversation = asked.find((value) => value !== undefined);
  const newest = Array.isArray(conversation) ? conversation.at(-1) : conversation;
  const choices = memberOf(content['answer'], 'choices');
  const [first] = Array.isArray(choices) ? choices : [];
  return [
    ...shown('>', memberOf(newest, 'content') ?? newest),
    ...shown('<', memberOf(first, 'text')),
    ...shown('<', memberOf(first, 'toolCalls')),
  ];
}

function shown(mark: string, value: unknown): readonly string[] {
  if (value === undefined || value === '') return [];
  const text = plain(typeof value === 'string' ? value : JSON.stringify(value));
  const cut = text.length > SHOWN_TEXT_MAX ? `${text.slice(0, SHOWN_TEXT_MAX).toWellFormed()}…` : text;
  return [`        ${mark} ${cut}`];
}

function memberOf(value: unknown, name: string): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  return Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined;
}

/** Prints all that the logs have of one request. */
export async function auditShow(cli: Cli, seq: number, { tenant }: AuditLogFlags): Promise<number> {
  const found = await readAuditLogs(cli, (home) => home.auditedRequest(seq, tenant));
  const { record, content, isChanged } = found;
  if (cli.json) cli.printJson(found);
  else {
    const isKept = record.model?.content !== undefined;
    const note = isKept ? ['it is no longer kept'] : [];
    const text = content === null ? note : [plainLines(plainJson(content, 2))];
    cli.stdout.write(`${[plainJson(record, 2), ...text].join('\n')}\n`);
  }
  if (!isChanged) return 0;
  cli.stderr.write('neurovisor: the content was changed: it does not match the record\n');
  return 1;
}
