/** What an upstream of Anthropic's API gets: the guest's own bytes, but for what only the host decides. Pure. */
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import type { BridgePolicy } from '../../policy.ts';
import type { DirectRequest, Operation } from '../dialect.ts';
import { isGiven } from '../read-values.ts';
import { UNSIGNED } from './write-answer.ts';

/**
 * Set to null, which is as if they were absent: the first tells what is in the cache of the host's account, the others
 * choose a price and a place for that account.
 */
const HOSTS_FIELDS = ['diagnostics', 'speed', 'inference_geo', 'betas'];

export function directRequest(
  { generates }: Operation,
  body: JsonObject,
  { allowFields = [] }: BridgePolicy,
): DirectRequest {
  const cleared = HOSTS_FIELDS.filter((name) => isGiven(body[name]) && !allowFields.includes(name));
  const messages = signedMessages(body['messages']);
  return {
    path: generates ? '/messages' : '/messages/count_tokens',
    body: messages === undefined ? undefined : { ...body, messages },
    edits: Object.fromEntries(cleared.map((name) => [name, null])),
  };
}

/**
 * Without the thinking of models of other upstreams, which an earlier answer may have had: Anthropic's servers refuse a
 * conversation with a signature that is not theirs. Undefined: there is none.
 */
function signedMessages(messages: unknown): readonly unknown[] | undefined {
  if (!Array.isArray(messages)) return undefined;
  let changed = false;
  const signed = messages.flatMap((message: unknown) => {
    if (!isJsonObject(message) || !Array.isArray(message['content'])) return [message];
    const content = message['content'].filter((block) => !isUnsigned(block));
    if (content.length === message['content'].length) return [message];
    changed = true;
    return content.length === 0 ? [] : [{ ...message, content }];
  });
  return changed ? signed : undefined;
}

const isUnsigned = (block: unknown): boolean =>
  isJsonObject(block) && block['type'] === 'thinking' && block['signature'] === UNSIGNED;
