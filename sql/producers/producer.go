// Enqueue from Go with pgx, in the transaction of your own rows.
package producer

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"
)

// Enqueue inserts a job that commits, or not, with tx. It returns the job's id.
// An empty key asks for no order.
func Enqueue(ctx context.Context, tx pgx.Tx, topic, key string, payload any) (id int64, err error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return 0, err
	}

	err = tx.QueryRow(ctx,
		`insert into outbox.immediate (topic, key, payload) values ($1, nullif($2, ''), $3) returning id`,
		topic, key, body,
	).Scan(&id)
	return id, err
}
