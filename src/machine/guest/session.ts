/**
 * The host end of one operation, without I/O (`spec/guest-protocol.md`, sections 2 and 4).
 *
 *     handshake ──OK n──► waiting-reply ──reply──► held ──begin──► frames | raw
 *          └──── anything else, too long, not JSON ────► broken ◄────┘
 *
 * `held`: bytes after the reply wait until handlers are attached.
 */
import { assert } from '../../base/assert.ts';
import { type Frame, FrameDecoder, LineDecoder } from './framing.ts';
import { GUEST_LIMITS } from './limits.ts';
import { parseReply, type Reply } from './protocol.ts';

export type SessionEvent =
  | { readonly type: 'connected' }
  | { readonly type: 'reply'; readonly reply: Reply }
  | { readonly type: 'frame'; readonly frame: Frame }
  | { readonly type: 'bytes'; readonly bytes: Buffer }
  | { readonly type: 'broken'; readonly reason: string };

export type SessionState = 'handshake' | 'waiting-reply' | 'held' | 'frames' | 'raw' | 'broken';

export class OperationSession {
  #state: SessionState = 'handshake';
  #lines = new LineDecoder(GUEST_LIMITS.handshakeLineBytesMax);
  readonly #frames = new FrameDecoder();
  #held: Buffer[] = [];
  #heldBytes = 0;

  get state(): SessionState {
    return this.#state;
  }

  receive(data: Buffer): SessionEvent[] {
    switch (this.#state) {
      case 'handshake':
      case 'waiting-reply':
        return this.#line(data);
      case 'held':
        return this.#hold(data);
      case 'frames':
        return this.#frame(data);
      case 'raw':
        return data.length === 0 ? [] : [{ type: 'bytes', bytes: data }];
      case 'broken':
        return [];
    }
  }

  /** Returns the held events; from now on frames or raw bytes come as they arrive. */
  begin(mode: 'frames' | 'raw'): SessionEvent[] {
    assert(this.#state === 'held', 'an operation begins once, after its reply');
    this.#state = mode;
    const held = Buffer.concat(this.#held);
    this.#held = [];
    return this.receive(held);
  }

  #line(data: Buffer): SessionEvent[] {
    const result = this.#lines.receive(data);
    if (!result.ok) return this.#break(result.reason);
    if (result.line === null) return [];
    if (this.#state === 'handshake') {
      if (!/^OK \d{1,10}$/.test(result.line.toString('latin1'))) {
        return this.#break('the channel did not answer OK');
      }
      this.#state = 'waiting-reply';
      this.#lines = new LineDecoder(GUEST_LIMITS.replyLineBytesMax);
      return [{ type: 'connected' }, ...this.receive(result.rest)];
    }
    const parsed = parseReply(result.line);
    if (!parsed.ok) return this.#break(`reply: ${parsed.reason}`);
    this.#state = 'held';
    return [{ type: 'reply', reply: parsed.value }, ...this.receive(result.rest)];
  }

  /** The reader is paused after the reply, so only a few chunks can still arrive. */
  #hold(data: Buffer): SessionEvent[] {
    this.#heldBytes += data.length;
    if (this.#heldBytes > HELD_BYTES_MAX) return this.#break(`more than ${HELD_BYTES_MAX} bytes after the reply`);
    if (data.length > 0) this.#held.push(data);
    return [];
  }

  #frame(data: Buffer): SessionEvent[] {
    const result = this.#frames.receive(data);
    const frames = result.frames.map((frame) => ({ type: 'frame' as const, frame }));
    return result.ok ? frames : [...frames, ...this.#break(result.reason)];
  }

  #break(reason: string): SessionEvent[] {
    this.#state = 'broken';
    this.#held = [];
    return [{ type: 'broken', reason }];
  }
}

const HELD_BYTES_MAX = GUEST_LIMITS.replyLineBytesMax;
