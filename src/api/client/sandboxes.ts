import { errorCode } from '../../base/errors.ts';
import type { Sandboxes } from '../../sandbox/contract/control.ts';
import * as answers from './answers.ts';
import { type Requests, sandboxPath } from './requests.ts';

/** @param session headers of the client's session, if it opened one */
export function remoteSandboxes(requests: Requests, session: () => Readonly<Record<string, string>>): Sandboxes {
  const { transport, get, post } = requests;
  const answer = answers.sandboxInfo;
  const sandboxes: Sandboxes = {
    async create(request, signal) {
      return await transport.call({
        method: 'POST',
        path: '/sandboxes',
        headers: session(),
        body: request,
        answer,
        signal,
        undo: ({ id }) => sandboxes.remove(id),
      });
    },

    async list(filter = {}) {
      const query = new URLSearchParams();
      if (filter.name !== undefined) query.set('name', filter.name);
      if (filter.status !== undefined) query.set('status', filter.status.join(','));
      for (const [key, value] of Object.entries(filter.metadata ?? {})) {
        query.append('metadata', `${key}=${value}`);
      }
      return (await get('/sandboxes', answers.sandboxList, query)).sandboxes;
    },

    async get(id) {
      return await get(sandboxPath(id), answer);
    },

    async update(id, change) {
      return await transport.call({ method: 'PATCH', path: sandboxPath(id), body: change, answer });
    },

    async remove(id) {
      const path = sandboxPath(id);
      try {
        return await transport.call({ method: 'DELETE', path, answer });
      } catch (error) {
        if (errorCode(error) !== 'daemon_lost') throw error;
        // The daemon may have ended it before its own end.
        const info = await get(path, answer);
        return info.status === 'ended' ? info : await transport.call({ method: 'DELETE', path, answer });
      }
    },

    async pause(id, to) {
      return await post(`${sandboxPath(id)}/pause`, { to }, answer);
    },

    async resume(id, { signal, ...body } = {}) {
      return await post(`${sandboxPath(id)}/resume`, body, answer, signal);
    },

    async fork(id, options) {
      const path = `${sandboxPath(id)}/fork`;
      const call = { method: 'POST', path, headers: session(), body: options, answer: answers.forkList } as const;
      return (await transport.call(call)).forks;
    },
  };
  return sandboxes;
}
