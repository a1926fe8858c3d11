// Enqueue from Java with JDBC, in the transaction of your own rows.

import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.nio.charset.StandardCharsets;

public final class Producer {
    private static final String INSERT =
        "insert into outbox.immediate (topic, key, payload) values (?, ?, ?) returning id";

    private Producer() {}

    /**
     * Inserts a job that commits, or not, with the transaction of the connection.
     *
     * @param key  ordering key; null asks for no order
     * @param json the payload
     * @return the job's id
     */
    public static long enqueue(Connection connection, String topic, String key, String json)
            throws SQLException {
        if (connection.getAutoCommit()) {
            throw new SQLException("the job would be committed on its own: setAutoCommit(false)");
        }

        try (PreparedStatement insert = connection.prepareStatement(INSERT)) {
            insert.setString(1, topic);
            insert.setString(2, key);
            insert.setBytes(3, json.getBytes(StandardCharsets.UTF_8));
            try (ResultSet inserted = insert.executeQuery()) {
                inserted.next();
                return inserted.getLong(1);
            }
        }
    }
}
