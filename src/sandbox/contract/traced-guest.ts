/** Connects a guest's programs to the trace of their caller. */

import { type SpanContext, type Tracer, traceEnv } from '../../base/trace/trace.ts';
import type { Guest, Process, RunOptions } from '../../machine/guest/guest.ts';

/** Each program is a span and receives it as its parent (TRACEPARENT). */
export function tracedGuest(guest: Guest, sandboxId: string, tracer: Tracer): Guest {
  const traced =
    <S extends RunOptions>(name: string, start: (spec: S, signal?: AbortSignal) => Promise<Process>) =>
    async (spec: S, signal?: AbortSignal): Promise<Process> => {
      const attributes = { 'neurovisor.sandbox.id': sandboxId };
      const span = tracer.start(name, { kind: 'client', attributes });
      tracer.note(sandboxId, span.context);
      try {
        const process = await start(withTrace(spec, span.context), signal);
        process.exit.then(
          ({ exitCode }) => {
            span.set({ 'process.exit.code': exitCode });
            span.end();
          },
          (error: unknown) => span.end(error),
        );
        return process;
      } catch (error) {
        span.end(error);
        throw error;
      }
    };
  return replaced(guest, {
    exec: traced('exec', (spec, signal) => guest.exec(spec, signal)),
    python: traced('python', (spec, signal) => guest.python(spec, signal)),
  });
}

/** For a caller without a tracer that is itself part of a trace: its programs get the same parent. */
export function guestInTrace(guest: Guest, context: SpanContext): Guest {
  return replaced(guest, {
    exec: (spec, signal) => guest.exec(withTrace(spec, context), signal),
    python: (spec, signal) => guest.python(withTrace(spec, context), signal),
  });
}

/** Keeps variables that the caller has set. */
function withTrace<S extends RunOptions>(spec: S, context: SpanContext | null): S {
  return context === null ? spec : { ...spec, env: { ...traceEnv(context), ...spec.env } };
}

function replaced(guest: Guest, methods: Pick<Guest, 'exec' | 'python'>): Guest {
  return new Proxy(guest, {
    get(target, name) {
      if (name === 'exec' || name === 'python') return methods[name];
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
