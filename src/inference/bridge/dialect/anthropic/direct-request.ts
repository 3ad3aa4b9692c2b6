/**
 * The request for an upstream with Anthropic's API: the guest's own bytes, except for what only the host decides. Pure.
 */
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import type { BridgePolicy } from '../../policy.ts';
import type { DirectRequest, Operation } from '../dialect.ts';
import { isGiven } from '../read-values.ts';
import { UNSIGNED } from './write-answer.ts';

/**
 * Fields set to null, which equals absent: the first one reveals what is in the cache of the host's account, the others
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
 * Messages without the thinking of other upstreams' models, which an earlier answer may have had: Anthropic's servers
 * refuse a conversation with a signature that is not theirs. Undefined if there is none.
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
