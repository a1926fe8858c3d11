// Enqueue from Node with pg, in the transaction of your own rows.

/**
 * Insert a job that commits, or not, with the transaction open on `client`.
 * Give a client, not the pool: each query of a pool is a transaction of its own.
 * Resolves to the id of the job, as text: it is a bigint.
 */
export async function enqueue(client, topic, payload, { key = null, headers = null } = {}) {
  const { rows } = await client.query(
    `insert into outbox.immediate (topic, key, headers, payload)
     values ($1, $2, $3, $4)
     returning id`,
    [topic, key, headers && JSON.stringify(headers), Buffer.from(JSON.stringify(payload))],
  );
  return rows[0].id;
}
