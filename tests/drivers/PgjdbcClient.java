import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/** Connects as pgjdbc does, with the URL that is given, runs statements one by one, and prints what each answers. */
public class PgjdbcClient {
    public static void main(String[] words) {
        try (Connection connection = DriverManager.getConnection(words[0])) {
            System.out.println("connected");
            for (int i = 1; i < words.length; i++) {
                try (Statement statement = connection.createStatement()) {
                    if (statement.execute(words[i])) {
                        ResultSet rows = statement.getResultSet();
                        while (rows.next()) {
                            System.out.println("row " + rows.getString(1));
                        }
                    } else {
                        System.out.println("updated " + statement.getUpdateCount());
                    }
                }
            }
        } catch (SQLException error) {
            System.out.println("error " + error.getSQLState() + " " + error.getMessage());
            System.exit(1);
        }
    }
}
