/**
 * Routes requests of one conversation to the same replica, whose cache holds its beginning. Uses weighted rendezvous
 * hashing: each route draws a number from the conversation, so an added or removed route moves only its own share.
 * Pure.
 */
import { createHash } from 'node:crypto';
import { isJsonObject, type JsonObject } from '../json-body.ts';
import type { Route } from './route-table.ts';

/** Enough to distinguish the conversations of one agent; prompts can have megabytes. */
const TEXT_CHARACTERS_MAX = 4096;
const MESSAGES_MAX = 16;
const PARTS_MAX = 16;

/**
 * The common part of all requests of a conversation: instructions, and what precedes the model's first answer. `null`
 * if there is no text, as for embeddings.
 * @param body of chat completions, completions or messages, with fields of any type
 */
export function conversationOf(body: JsonObject): string | null {
  const { messages, system, prompt, model } = body;
  const texts = [textOf(system), textOf(prompt), ...(Array.isArray(messages) ? opening(messages) : [])];
  if (texts.every((text) => text === '')) return null;
  const key = JSON.stringify([typeof model === 'string' ? model : '', ...texts]);
  return createHash('sha256').update(key).digest('base64url');
}

function opening(messages: readonly unknown[]): readonly string[] {
  const texts: string[] = [];
  for (const message of messages.slice(0, MESSAGES_MAX)) {
    if (!isJsonObject(message)) continue;
    if (message['role'] === 'assistant') break;
    texts.push(`${String(message['role'])}: ${textOf(message['content'])}`);
  }
  return texts;
}

function textOf(content: unknown): string {
  if (typeof content === 'string') return content.slice(0, TEXT_CHARACTERS_MAX);
  if (!Array.isArray(content)) return '';
  return content
    .slice(0, PARTS_MAX)
    .map((part: unknown) => (isJsonObject(part) ? part['text'] : part))
    .filter((text) => typeof text === 'string')
    .join('\n')
    .slice(0, TEXT_CHARACTERS_MAX);
}

/** In [0, 1), the same for the same affinity and route; random without an affinity. */
export type Draw = (affinity: string | null, route: Route) => number;

export const drawByHash: Draw = (affinity, { upstream, model }) => {
  if (affinity === null) return Math.random();
  const hash = createHash('sha256')
    .update(JSON.stringify([affinity, upstream, model]))
    .digest();
  return hash.readUIntBE(0, 6) / 2 ** 48;
};

/**
 * The route with the highest score. For independent draws each is chosen in proportion to its weight.
 * @param draw in [0, 1)
 */
export function weighted([first, ...others]: readonly [Route, ...Route[]], draw: (route: Route) => number): Route {
  const scoreOf = (route: Route): number => Math.log(1 - draw(route)) / route.weight;
  let best = { route: first, score: scoreOf(first) };
  for (const route of others) {
    const score = scoreOf(route);
    if (score > best.score) best = { route, score };
  }
  return best.route;
}
